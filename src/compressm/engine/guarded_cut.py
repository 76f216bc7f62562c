"""One cut from measuring to its verdict: keep it, undo it, or try a gentler one.

What raises has not happened, see `Fallback`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

from compressm.engine.cut import Cutter
from compressm.engine.fallback import Fallback
from compressm.engine.guard import Guard, gentler
from compressm.engine.survey import Survey
from compressm.errors import InputError
from compressm.events import Attempt, Event, SiteChange
from compressm.policies.base import LiveModel, Policy
from compressm.runtime.accelerators import devices_of, synchronize
from compressm.runtime.interrupts import held
from compressm.writeback import Snapshot

T = TypeVar("T")


@dataclass(kw_only=True)
class _Trial:
    """A cut that the guard has not accepted yet."""

    snapshot: Snapshot
    plan: dict[str, int]
    metric_before: float
    parameters_before: int
    snapshot_bytes: int = 0
    attempts: int = 0
    changes: tuple[SiteChange, ...] = ()
    judged_at: int | None = None
    tried: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()
    refused: float | None = None  # the metric of an attempt that has been undone already

    def judged(self, metric: float, *, accepted: bool) -> None:
        """Note the verdict on the attempt that is under way."""
        known = metric if math.isfinite(metric) else None
        verdict = replace(self.tried[-1], metric=known, accepted=accepted)
        self.tried = (*self.tried[:-1], verdict)


class Transaction:
    """The cuts of one run under one policy and, if there is one, one guard's budget.

    Attributes:
        spent: what the cuts accepted so far have cost in the guard's metric.
        stopped: the guard has given up (`on_failure="stop"`).
        started: whether `start` has nothing to do (any more).
    """

    def __init__(self, cutter: Cutter, policy: Policy, guard: Guard | None) -> None:
        self._cutter, self._policy, self._guard = cutter, policy, guard
        self._trial: _Trial | None = None
        self._evaluation = 0.0
        self._notes: tuple[str, ...] = ()
        self._start: tuple[int, float] | None = None
        self._fallback = Fallback(cutter)
        self.spent = 0.0
        self.stopped = False
        self.started = guard is None

    def whole(self, work: Callable[[], T], *books: object) -> T:
        """What `work` does happens altogether or, when anything raises, not at all.

        One step back is never taken back: when a cut that was tried has been undone and the next
        attempt fails, that one is made at the next `judge`.

        Args:
            work: calls the methods below.
            books: objects whose attributes say what has happened.
        """
        records = [] if self._trial is None else [self._trial]
        try:
            return self._fallback.run(work, [self, *books], *records)
        finally:
            self._cutter.close_snapshots(None if self._trial is None else self._trial.snapshot)

    @property
    def judged_at(self) -> int | None:
        """The step at which a pending cut is judged; None when none is pending."""
        return None if self._trial is None else self._trial.judged_at

    def start(self, step: int) -> None:
        """Look at the guard's metric once at the start of the training."""
        self.started = True
        self._fallback.secure()  # a metric that trains, or fails, is undone with it
        metric = self._evaluate()
        self._start = (step, metric) if math.isfinite(metric) else None

    def measured(self, step: int | None, survey: Survey) -> Event:
        """The event of a measurement without a cut."""
        self._evaluation, self._notes = 0.0, ()
        now = self._cutter.parameters
        return self._event("measured", step, survey.unchanged(), now, time.perf_counter())

    def begin(self, step: int | None, survey: Survey | None = None) -> Event:
        """Measure (or take `survey`), plan, cut; with a guard, only if it is worth its price."""
        started = time.perf_counter()
        self._evaluation = 0.0
        survey = survey or self._cutter.survey()
        before = self._cutter.parameters
        live = LiveModel(
            parameters=before,
            trial=lambda plan: self._cutter.trial(survey, plan, self._fallback.secure()),
            evaluate=partial(self._cutter.evaluate, may_train=True),
            wait=lambda: synchronize(devices_of(self._cutter.model)),
        )
        with self._cutter.ranks.agreement("planning"):
            plan = self._policy.plan(survey.spectra, live)
        plan = self._cutter.settle(survey, self._cutter.ranks.broadcast(plan))
        self._notes = tuple(live.notes)
        if self._guard is None or not _cuts(plan, survey):
            proposal = self._cutter.propose(survey, plan)
            self._cutter.commit(proposal)
            kind = "cut" if proposal.cuts else "kept"
            return self._event(kind, step, proposal.changes, before, started)
        snapshot, metric = self._fallback.secure(), self._evaluate()
        self._guard.drop(metric, metric)  # a metric that is no number is an error before the cut
        self._trial = _Trial(
            snapshot=snapshot,
            snapshot_bytes=snapshot.nbytes,
            plan=plan,
            metric_before=metric,
            parameters_before=before,
            notes=(*self._notes, *self._doubts(metric)),
        )
        return self._attempt(survey, step, started)

    def judge(self, step: int) -> Event:
        """The verdict on a pending cut, after its recovery steps."""
        assert self._guard is not None
        assert self._trial is not None
        started = time.perf_counter()
        self._evaluation = 0.0
        trial = self._trial
        if trial.refused is not None:  # undone by an earlier call; the run may have gone on since
            after, trial.snapshot = trial.refused, self._fallback.secure()
            return self._retry(self._cutter.survey(), step, started, after)
        self._fallback.secure()  # as in `start`; the trial's snapshot is of before the cut
        after = self._evaluate()
        if self._accepts(after):
            return self._close("accepted", step, started, after)
        self._undo(trial, after)
        return self._retry(self._cutter.survey(), step, started, after)

    def _attempt(self, survey: Survey, step: int | None, started: float) -> Event:
        assert self._guard is not None
        assert self._trial is not None
        trial = self._trial
        trial.attempts += 1
        trial.refused = None
        proposal = self._cutter.propose(survey, trial.plan)
        self._cutter.commit(proposal)
        trial.changes = proposal.changes
        ranks = {change.site: change.after for change in proposal.changes}
        trial.tried = (*trial.tried, Attempt(ranks=ranks))
        if self._guard.recovery_steps:
            trial.judged_at = (step or 0) + self._guard.recovery_steps
            before = trial.parameters_before
            return self._event("trial", step, proposal.changes, before, started, trial)
        after = self._evaluate()
        if self._accepts(after):
            return self._close("cut", step, started, after)
        self._undo(trial, after)
        return self._retry(survey, step, started, after)

    def _undo(self, trial: _Trial, after: float) -> None:
        """Put everything back as it was before the cut."""
        with self._cutter.ranks.agreement("undoing the cut"):
            put_back = self._cutter.undoing(trial.snapshot)
            with held():
                try:
                    put_back()
                finally:  # it is done even when it raises
                    if trial.judged_at is not None:  # a cut of an earlier call: no way back to it
                        trial.refused = after
                        self._fallback.here(trial, snapshot=trial.snapshot)

    def _retry(self, survey: Survey, step: int | None, started: float, after: float) -> Event:
        """The model is as it was before the cut; try half of it, or give up."""
        assert self._guard is not None
        assert self._trial is not None
        trial = self._trial
        sizes = {name: spectrum.state_dim for name, spectrum in survey.spectra.items()}
        trial.plan = self._cutter.settle(survey, gentler(trial.plan, sizes))
        if trial.attempts < self._guard.max_attempts and _cuts(trial.plan, survey):
            return self._attempt(survey, step, started)
        self.stopped = self._guard.on_failure == "stop"
        trial.changes = survey.unchanged()
        return self._close("rejected", step, started, after)

    def _doubts(self, metric: float) -> tuple[str, ...]:
        """What there is to say against the metric before a cut."""
        assert self._guard is not None
        if self._start is None or not self._guard.is_blind(self._start[1], metric, self.spent):
            return ()
        step, start = self._start
        return (
            f"the metric ({metric:.6g}) is where it was at step {step} ({start:.6g}), to within "
            "what a cut may cost: it cannot tell a good cut from one that undoes the training",
        )

    def _accepts(self, after: float) -> bool:
        assert self._guard is not None
        assert self._trial is not None
        drop = self._guard.drop(self._trial.metric_before, after)
        accepted = drop <= self._guard.allowed(self.spent)
        self._trial.judged(after, accepted=accepted)
        if accepted:
            self.spent += max(drop, 0.0)
        return accepted

    def _close(self, kind: str, step: int | None, started: float, after: float) -> Event:
        assert self._trial is not None
        trial, self._trial = self._trial, None
        changes, before = trial.changes, trial.parameters_before
        return self._event(kind, step, changes, before, started, trial, after)

    def _evaluate(self) -> float:
        assert self._guard is not None
        started = time.perf_counter()
        try:
            return self._cutter.evaluate(self._guard.evaluate)
        finally:
            self._evaluation += time.perf_counter() - started

    def _event(
        self,
        kind: str,
        step: int | None,
        changes: tuple[SiteChange, ...],
        before: int,
        started: float,
        trial: _Trial | None = None,
        after: float | None = None,
    ) -> Event:
        return Event(
            step=step,
            kind=kind,
            method=", ".join(dict.fromkeys(change.method for change in changes)),
            sites=changes,
            parameters_before=before,
            parameters_after=self._cutter.parameters,
            seconds=time.perf_counter() - started - self._evaluation,
            metric_before=None if trial is None else trial.metric_before,
            metric_after=after if after is not None and math.isfinite(after) else None,
            attempts=1 if trial is None else trial.attempts,
            evaluation_seconds=self._evaluation,
            snapshot_bytes=0 if trial is None else trial.snapshot_bytes,
            notes=self._notes if trial is None else trial.notes,
            tried=() if trial is None else trial.tried,
        )

    def state_dict(self) -> dict[str, Any]:
        """Budget spent, random state, and a pending cut with all that undoing it needs."""
        trial = self._trial
        if trial is not None and self._cutter.team.is_sharded:
            raise InputError(
                "state_dict: a cut of a sharded model waits for its verdict, and what would undo "
                "it cannot be saved; save when `compressor.pending` is false"
            )
        return {
            "spent": self.spent,
            "stopped": self.stopped,
            "started": self.started,
            "start": None if self._start is None else list(self._start),
            "generator": self._cutter.generator.get_state(),
            "trial": None
            if trial is None
            else {
                "snapshot": trial.snapshot.state_dict(),
                "plan": trial.plan,
                "metric_before": trial.metric_before,
                "parameters_before": trial.parameters_before,
                "snapshot_bytes": trial.snapshot_bytes,
                "attempts": trial.attempts,
                "changes": [change.to_dict() for change in trial.changes],
                "judged_at": trial.judged_at,
                "tried": [asdict(attempt) for attempt in trial.tried],
                "notes": list(trial.notes),
                "refused": trial.refused,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.spent, self.stopped = float(state["spent"]), bool(state["stopped"])
        # A run saved before this was recorded has trained already.
        self.started = self._guard is None or bool(state.get("started", True))
        start = state.get("start")
        self._start = None if start is None else (int(start[0]), float(start[1]))
        self._cutter.generator.set_state(state["generator"])
        self._trial, trial = None, state["trial"]
        self._cutter.close_snapshots()
        if trial is None:
            return
        snapshot = Snapshot.from_state_dict(
            trial["snapshot"],
            self._cutter.everything,
            self._cutter.optimizers,
            self._cutter.companions,
        )
        self._cutter.snapshots.append(snapshot)
        changes = tuple(SiteChange.from_dict(change) for change in trial["changes"])
        # Runs that were saved before attempts were recorded know the last one only.
        known = trial.get("tried") or [{"ranks": {c.site: c.after for c in changes}}]
        tried = tuple(Attempt(**attempt) for attempt in known)
        notes = tuple(trial.get("notes", ()))
        own = {"snapshot": snapshot, "changes": changes, "tried": tried, "notes": notes}
        self._trial = _Trial(**{**trial, **own})


def _cuts(plan: Mapping[str, int], survey: Survey) -> bool:
    return any(plan[name] < spectrum.state_dim for name, spectrum in survey.spectra.items())
