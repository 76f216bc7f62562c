"""A cut on trial: made, judged by a metric, undone where it costs too much, retried gentler.

    metric before → cut → metric after ─ within the budget ─→ keep it
                     ↑                 ─ more than that ────→ undo it ─┐
                     └───────── half as many states ←──────────────────┘

With recovery steps the verdict waits: the call ends after the cut, the training goes on, and the
`Trial` is judged when its step comes. With a search the loop goes on after a cut that is within the
budget, between it and the one that was not. What raises has not happened, see `Rollback`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, final

from compressm.engine.cut import Plan, as_carried_out, commit, propose_cut
from compressm.engine.guard import Guard, between, gentler
from compressm.engine.proposal import Proposal
from compressm.engine.rollback import Rollback
from compressm.engine.stopwatch import Stopwatch
from compressm.engine.survey import Survey
from compressm.engine.training_run import TrainingRun
from compressm.events import Attempt, Event, SiteChange, kind_of
from compressm.runtime.interrupts import held
from compressm.writeback import Snapshot


class Judge(Protocol):
    """Whoever has put a cut on trial, see `GuardedCuts`."""

    run: TrainingRun
    guard: Guard
    rollback: Rollback
    pending: Trial | None
    stopped: bool

    def affords(self, before: float, after: float) -> bool:
        """Whether a cut with this metric before and after it is within the budget."""

    def pay(self, before: float, after: float) -> None:
        """Count what a cut that stays has cost."""


@final
@dataclass(kw_only=True)
class Trial:
    """A cut on trial, from before its first attempt to its verdict.

    Attributes:
        cuts: those of the run, which take note of the verdict.
        snapshot: of everything before the cut.
        states: what the attempt under way keeps, by layer.
        metric_before, parameters_before, notes, snapshot_bytes: for the event.
        remarks: on the last attempt, for the event too.
        attempts: how many there were.
        changes: of the last one.
        tried: all of them, with their metrics and verdicts.
        judged_at: the step of the verdict on the last one.
        undone_metric: of an attempt that a call has undone, which then could not make the next
            one; None where there is none.
        refused: what the gentlest attempt that did not pass keeps, of a search.
        passed: the deepest attempt that passed, and its metric, of a search that has gone on.
    """

    cuts: Judge
    snapshot: Snapshot
    states: Mapping[str, int]
    metric_before: float
    parameters_before: int
    notes: tuple[str, ...] = ()
    snapshot_bytes: int = 0
    attempts: int = 0
    changes: tuple[SiteChange, ...] = ()
    tried: tuple[Attempt, ...] = ()
    judged_at: int = 0
    undone_metric: float | None = None
    remarks: tuple[str, ...] = ()
    refused: Mapping[str, int] | None = None
    passed: tuple[Proposal, float] | None = None

    def attempt(self, survey: Survey, watch: Stopwatch) -> Event:
        """Cut the model, which is as it was before; judge at once, or leave that to `judge`."""
        run, guard = self.cuts.run, self.cuts.guard
        self.attempts += 1
        self.undone_metric = None
        proposal = propose_cut(run, survey, self.states)
        self._make(proposal)
        ranks = {change.site: change.after for change in proposal.changes}
        self.tried = (*self.tried, Attempt(ranks=ranks))
        self.judged_at = (watch.step or 0) + guard.recovery_steps
        if guard.recovery_steps:
            return self._event("trial", watch)
        metric = watch.evaluate(guard)
        accepted = self._accepted(metric)
        if accepted:
            self.passed = proposal, metric
        else:
            self.refused = self.states
        states = self._deeper(survey)
        if accepted and states is None:
            return self._close(kind_of(self.changes), watch, metric)
        self._undo()
        if states is not None:
            self.states = states
            return self.attempt(survey, watch)
        if self.passed is None:
            return self._retry(survey, watch, metric)
        proposal, metric = self.passed
        self._make(proposal)
        return self._close(kind_of(self.changes), watch, metric)

    def _make(self, proposal: Proposal) -> None:
        commit(self.cuts.run, proposal)
        self.changes, self.remarks = proposal.changes, proposal.notes

    def _undo(self) -> None:
        with self.cuts.run.ranks.agreement("undoing the cut"):
            put_back = self.cuts.rollback.undoing(self.snapshot)
            with held():
                put_back()

    def _deeper(self, survey: Survey) -> Mapping[str, int] | None:
        """What a search tries next, or None where there is none or nothing is left to try."""
        guard, passed, refused = self.cuts.guard, self.passed, self.refused
        if not guard.search or passed is None or refused is None:
            return None
        if self.attempts >= guard.max_attempts:
            return None
        kept = {change.site: change.after for change in passed[0].changes}
        states = as_carried_out(self.cuts.run, survey, between(refused, kept))
        ends = (dict(kept), dict(refused))
        return None if dict(states) in ends else states

    def judge(self, step: int, *, last: bool = False) -> Event:
        """The verdict on a cut of an earlier call, after its recovery steps.

        The `last` one of a training is final: a gentler cut would have no steps to recover in.
        """
        cuts, watch = self.cuts, Stopwatch(self.cuts.run, step)
        if self.undone_metric is not None:  # by an earlier call; the run may have gone on since
            metric, self.snapshot = self.undone_metric, cuts.rollback.snapshot()
            return self._retry(cuts.run.survey(), watch, metric, last=last)
        cuts.rollback.snapshot()  # a metric that trains is undone; `self.snapshot` is older
        metric = watch.evaluate(cuts.guard)
        if self._accepted(metric):
            return self._close("accepted", watch, metric)
        self._undo_earlier_call(metric)
        return self._retry(cuts.run.survey(), watch, metric, last=last)

    def _undo_earlier_call(self, metric: float) -> None:
        """Put everything back as it was before the cut; from here there is no way back to it."""
        with self.cuts.run.ranks.agreement("undoing the cut"):
            put_back = self.cuts.rollback.undoing(self.snapshot)
            with held():
                try:
                    put_back()
                finally:  # it is done even when it raises
                    self.undone_metric = metric
                    self.cuts.rollback.return_here(self, snapshot=self.snapshot)

    def _retry(
        self, survey: Survey, watch: Stopwatch, metric: float, *, last: bool = False
    ) -> Event:
        """The model is as it was before the cut; try half of it, or give up."""
        sizes = {name: spectrum.state_dim for name, spectrum in survey.spectra.items()}
        self.states = as_carried_out(self.cuts.run, survey, gentler(self.states, sizes))
        left = self.attempts < self.cuts.guard.max_attempts and not last
        if left and Plan(states=self.states).changes(survey):
            return self.attempt(survey, watch)
        self.cuts.stopped = self.cuts.guard.on_failure == "stop"
        self.changes, self.remarks = survey.unchanged(), ()
        return self._close("rejected", watch, metric)

    def _accepted(self, metric: float) -> bool:
        """The verdict on the last attempt; it is noted there."""
        accepted = self.cuts.affords(self.metric_before, metric)
        known = metric if math.isfinite(metric) else None
        last = replace(self.tried[-1], metric=known, accepted=accepted)
        self.tried = (*self.tried[:-1], last)
        return accepted

    def _close(self, kind: str, watch: Stopwatch, metric: float) -> Event:
        self.cuts.pending = None
        if kind != "rejected":
            self.cuts.pay(self.metric_before, metric)
        return self._event(kind, watch, metric_after=metric)

    def _event(self, kind: str, watch: Stopwatch, metric_after: float | None = None) -> Event:
        return watch.event(
            kind,
            self.changes,
            parameters_before=self.parameters_before,
            metric_before=self.metric_before,
            metric_after=metric_after,
            attempts=self.attempts,
            snapshot_bytes=self.snapshot_bytes,
            notes=(*self.notes, *self.remarks),
            tried=self.tried,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to judge the cut, and to undo it."""
        return {
            "snapshot": self.snapshot.state_dict(),
            "plan": dict(self.states),
            "metric_before": self.metric_before,
            "parameters_before": self.parameters_before,
            "snapshot_bytes": self.snapshot_bytes,
            "attempts": self.attempts,
            "changes": [change.to_dict() for change in self.changes],
            "judged_at": self.judged_at,
            "tried": [asdict(attempt) for attempt in self.tried],
            "notes": list(self.notes),
            "remarks": list(self.remarks),
            "refused": self.undone_metric,
        }
