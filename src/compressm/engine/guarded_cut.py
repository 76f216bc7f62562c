"""A cut with a guard: judge it by a metric, undo it where it costs too much, retry a gentler one.

    metric before → cut → metric after ─ within the budget ─→ keep it
                     ↑                 ─ more than that ────→ undo it ─┐
                     └───────── half as many states ←──────────────────┘

With recovery steps the verdict waits: the call ends after the cut, the training goes on, and the
`Trial` is judged when its step comes. What raises has not happened, see `Rollback`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from compressm.engine.cut import (
    Cuts,
    Plan,
    UnguardedCuts,
    as_carried_out,
    commit,
    cut_at_once,
    plan_cut,
    propose_cut,
)
from compressm.engine.guard import Guard, gentler
from compressm.engine.saved_state import checked_generator, entry, optional
from compressm.engine.saved_trial import read_trial
from compressm.engine.stopwatch import Stopwatch
from compressm.engine.survey import Survey
from compressm.engine.training_run import TrainingRun
from compressm.errors import InputError
from compressm.events import Attempt, Event, SiteChange, kind_of
from compressm.policies.base import Policy
from compressm.runtime.interrupts import held
from compressm.writeback import Snapshot


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
    """

    cuts: GuardedCuts
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

    def attempt(self, survey: Survey, watch: Stopwatch) -> Event:
        """Cut the model, which is as it was before; judge at once, or leave that to `judge`."""
        run, guard = self.cuts.run, self.cuts.guard
        self.attempts += 1
        self.undone_metric = None
        proposal = propose_cut(run, survey, self.states)
        commit(run, proposal)
        self.changes, self.remarks = proposal.changes, proposal.notes
        ranks = {change.site: change.after for change in proposal.changes}
        self.tried = (*self.tried, Attempt(ranks=ranks))
        self.judged_at = (watch.step or 0) + guard.recovery_steps
        if guard.recovery_steps:
            return self._event("trial", watch)
        metric = watch.evaluate(guard)
        if self._accepted(metric):
            return self._close(kind_of(self.changes), watch, metric)
        with run.ranks.agreement("undoing the cut"):
            put_back = self.cuts.rollback.undoing(self.snapshot)
            with held():
                put_back()
        return self._retry(survey, watch, metric)

    def judge(self, step: int) -> Event:
        """The verdict on a cut of an earlier call, after its recovery steps."""
        cuts, watch = self.cuts, Stopwatch(self.cuts.run, step)
        if self.undone_metric is not None:  # by an earlier call; the run may have gone on since
            metric, self.snapshot = self.undone_metric, cuts.rollback.snapshot()
            return self._retry(cuts.run.survey(), watch, metric)
        cuts.rollback.snapshot()  # a metric that trains is undone; `self.snapshot` is older
        metric = watch.evaluate(cuts.guard)
        if self._accepted(metric):
            return self._close("accepted", watch, metric)
        self._undo_earlier_call(metric)
        return self._retry(cuts.run.survey(), watch, metric)

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

    def _retry(self, survey: Survey, watch: Stopwatch, metric: float) -> Event:
        """The model is as it was before the cut; try half of it, or give up."""
        sizes = {name: spectrum.state_dim for name, spectrum in survey.spectra.items()}
        self.states = as_carried_out(self.cuts.run, survey, gentler(self.states, sizes))
        left = self.attempts < self.cuts.guard.max_attempts
        if left and Plan(states=self.states).changes(survey):
            return self.attempt(survey, watch)
        self.cuts.stopped = self.cuts.guard.on_failure == "stop"
        self.changes, self.remarks = survey.unchanged(), ()
        return self._close("rejected", watch, metric)

    def _accepted(self, metric: float) -> bool:
        """The verdict on the last attempt; it is noted there."""
        accepted = self.cuts.pays(self.metric_before, metric)
        known = metric if math.isfinite(metric) else None
        last = replace(self.tried[-1], metric=known, accepted=accepted)
        self.tried = (*self.tried[:-1], last)
        return accepted

    def _close(self, kind: str, watch: Stopwatch, metric: float) -> Event:
        self.cuts.pending = None
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


@final
class GuardedCuts(Cuts):
    """Cuts that cost no more than a guard allows, each by itself and all together.

    Attributes:
        guard: the budget.
        spent: what the cuts accepted so far have cost in the guard's metric.
    """

    pending: Trial | None

    def __init__(self, run: TrainingRun, policy: Policy, guard: Guard) -> None:
        super().__init__(run, policy)
        self.guard, self.spent = guard, 0.0
        self._begun = False
        self._first: tuple[int, float] | None = None  # step and metric, where that was a number

    def begin(self, step: int) -> None:
        """Look at the guard's metric once at the start of the training."""
        if self._begun:
            return
        self._begun = True
        self.rollback.snapshot()  # a metric that trains, or fails, is undone with it
        metric = self.run.evaluate(self.guard.evaluate)
        self._first = (step, metric) if math.isfinite(metric) else None

    def cut(self, step: int | None, survey: Survey | None = None) -> Event:
        """As without a guard where nothing is to be cut; else a trial, if it may begin."""
        watch = Stopwatch(self.run, step)
        survey = survey or self.run.survey()
        before = self.run.parameters
        plan = plan_cut(self.run, self.policy, survey, self.rollback)
        if not plan.changes(survey):
            return cut_at_once(self.run, survey, plan, watch, before)
        snapshot, metric = self.rollback.snapshot(), watch.evaluate(self.guard)
        self.guard.drop(metric, metric)  # a metric that is no number is an error before the cut
        trial = Trial(
            cuts=self,
            snapshot=snapshot,
            snapshot_bytes=snapshot.nbytes,
            states=plan.states,
            metric_before=metric,
            parameters_before=before,
            notes=(*plan.notes, *self._doubts(metric)),
        )
        self.pending = trial
        return trial.attempt(survey, watch)

    def pays(self, before: float, after: float) -> bool:
        """Whether a cut with this metric before and after it is within the budget; it pays then."""
        drop = self.guard.drop(before, after)
        if drop > self.guard.allowed(self.spent):
            return False
        self.spent += max(drop, 0.0)
        return True

    def _doubts(self, metric: float) -> tuple[str, ...]:
        """What there is to say against the metric before a cut."""
        if self._first is None or not self.guard.is_blind(self._first[1], metric, self.spent):
            return ()
        step, start = self._first
        return (
            f"the metric ({metric:.6g}) is where it was at step {step} ({start:.6g}), to within "
            "what a cut may cost: it cannot tell a good cut from one that undoes the training",
        )

    def state_dict(self) -> dict[str, Any]:
        trial = self.pending
        if trial is not None and self.run.is_sharded:
            raise InputError(
                "state_dict: a cut of a sharded model waits for its verdict, and what would undo "
                "it cannot be saved; save when `compressor.pending` is false"
            )
        return {
            "spent": self.spent,
            "stopped": self.stopped,
            "started": self._begun,
            "start": None if self._first is None else list(self._first),
            "generator": self.run.generator.get_state(),
            "trial": None if trial is None else trial.state_dict(),
        }

    def read_state(self, state: Mapping[str, Any]) -> Callable[[], None]:
        spent, stopped = entry(state, "spent", float, 0.0), entry(state, "stopped", bool, False)
        # A run saved before this was recorded, or without a guard, has trained already.
        begun = entry(state, "started", bool, True)
        first = entry(state, "start", optional(lambda pair: (int(pair[0]), float(pair[1]))), None)
        generator = checked_generator(state)
        trial = entry(state, "trial", optional(self._read_trial), None)

        def go_on() -> None:
            self.spent, self.stopped, self._begun, self._first = spent, stopped, begun, first
            self.run.generator.set_state(generator)
            self.rollback.close_snapshots()
            self.pending = trial
            if trial is not None:
                self.rollback.keep_open(trial.snapshot)

        return go_on

    def _read_trial(self, state: Mapping[str, Any]) -> Trial:
        return Trial(cuts=self, **read_trial(state, self.run))


def cuts_of(run: TrainingRun, policy: Policy) -> Cuts:
    """Cuts with the guard of the run's settings, or without one."""
    if run.guard is None:
        return UnguardedCuts(run, policy)
    return GuardedCuts(run, policy, run.guard)
