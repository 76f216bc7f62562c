"""Layers that get new states because somebody says so; nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressm.arguments import shown, whole
from compressm.engine.cut import commit
from compressm.engine.new_sizes import edits_of_growth, edits_of_sizes
from compressm.engine.proposal import Proposal
from compressm.engine.rollback import Rollback
from compressm.engine.stopwatch import Stopwatch
from compressm.engine.survey import require_values
from compressm.engine.training_run import TrainingRun
from compressm.errors import InputError
from compressm.events import Event, SiteChange, kind_of
from compressm.families.base import Site, find_sites


def grow(run: TrainingRun, sizes: Any) -> Event:
    """Grow the layers of a run to these sizes, all or none; see `compressm.grow_`."""
    watch, before = Stopwatch(run, None), run.parameters
    run.distributed.require_unwrapped()
    run.require_held()
    run.require_identical("before new states")
    with run.ranks.agreement("looking for layers"):
        sites = find_sites(run.model)
        require_values(sites)
        wanted = sizes_wanted(sites, sizes)
    wanted = run.ranks.broadcast(wanted)
    proposal = run.ranks.broadcast(_proposal(run, sites, wanted), run.model)

    def work() -> Event:
        commit(run, proposal)
        return watch.event(kind_of(proposal.changes), proposal.changes, parameters_before=before)

    return Rollback(run).all_or_nothing(work, books=())


def sizes_wanted(sites: Mapping[str, Site], sizes: Any) -> dict[str, int]:
    """The layers that grow, and to how many states.

    Args:
        sites: of the model.
        sizes: one number for all layers, or one for some of them by name.

    Raises:
        InputError: another kind of value, an unknown name, or fewer states than a layer has.
    """
    if sizes is None:
        raise InputError(
            "sizes: expected states by layer name, or one number for all layers, got nothing; for "
            "example grow_(model, optimizer, 32)"
        )
    if not isinstance(sizes, Mapping):
        sizes = dict.fromkeys(sites, whole("sizes", sizes, 1))
    has = ", ".join(f"{name or '(model)'} ({site.state_dim})" for name, site in sites.items())
    if unknown := [name for name in sizes if name not in sites]:
        raise InputError(f"sizes: this model has no layer {shown(unknown[0])}; it has {has}")
    wanted = {name: whole(f"sizes: layer {name!r}", n, 1) for name, n in sizes.items()}
    for name, states in wanted.items():
        now = sites[name].state_dim
        if states < now:
            raise InputError(
                f"sizes: layer {name!r} has {now} states and was to have {states}; grow_ makes no "
                f"layer smaller, compress_(model, optimizer, policy=FixedRank({states})) does"
            )
    return {name: n for name, n in wanted.items() if n > sites[name].state_dim}


def _proposal(run: TrainingRun, sites: Mapping[str, Site], larger: Mapping[str, int]) -> Proposal:
    changes = tuple(
        SiteChange(
            site=name,
            family=site.adapter.family,
            before=site.state_dim,
            after=larger.get(name, site.state_dim),
            energy_kept=None,
        )
        for name, site in sites.items()
    )
    edits = edits_of_growth(sites, larger, run.generator, run.ranks)
    edits += edits_of_sizes(run.model, sites, larger)
    return Proposal(edits=edits, changes=changes)
