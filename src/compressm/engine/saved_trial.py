"""A cut that waits for its verdict, out of a saved state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressm.engine.saved_state import entry, optional
from compressm.engine.training_run import TrainingRun
from compressm.events import Attempt, SiteChange
from compressm.writeback import Snapshot


def read_trial(state: Mapping[str, Any], run: TrainingRun) -> dict[str, Any]:
    """The attributes of the `Trial` of which this is the `state_dict`; nothing is changed.

    Raises:
        CheckpointError: an entry is missing, or is of another kind.
    """

    def snapshot(saved: Any) -> Snapshot:
        return Snapshot.from_state_dict(saved, run.everything, run.optimizers, run.companions)

    changes = entry(state, "changes", lambda saved: tuple(map(SiteChange.from_dict, saved)))
    # Runs that were saved before attempts were recorded know the last one only.
    last = Attempt(ranks={change.site: change.after for change in changes})
    tried = entry(state, "tried", lambda saved: tuple(Attempt(**one) for one in saved), ())
    return {
        "snapshot": entry(state, "snapshot", snapshot),
        "states": entry(state, "plan", lambda plan: {site: int(n) for site, n in plan.items()}),
        "metric_before": entry(state, "metric_before", float),
        "parameters_before": entry(state, "parameters_before", int),
        "notes": entry(state, "notes", tuple, ()),
        "remarks": entry(state, "remarks", tuple, ()),
        "snapshot_bytes": entry(state, "snapshot_bytes", int),
        "attempts": entry(state, "attempts", int),
        "changes": changes,
        "tried": tried or (last,),
        "judged_at": entry(state, "judged_at", int),
        "undone_metric": entry(state, "refused", optional(float), None),
    }
