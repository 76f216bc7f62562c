"""Cuts with a guard, each a `Trial`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, final

from compressm.engine.cut import (
    Cuts,
    UnguardedCuts,
    cut_at_once,
    plan_cut,
)
from compressm.engine.guard import Guard
from compressm.engine.saved_state import checked_generator, entry, optional
from compressm.engine.saved_trial import read_trial
from compressm.engine.stopwatch import Stopwatch
from compressm.engine.survey import Survey
from compressm.engine.training_run import TrainingRun
from compressm.engine.trial import Trial
from compressm.errors import InputError
from compressm.events import Event
from compressm.policies.base import Policy


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

    def affords(self, before: float, after: float) -> bool:
        """Whether a cut with this metric before and after it is within the budget."""
        return self.guard.drop(before, after) <= self.guard.allowed(self.spent)

    def pay(self, before: float, after: float) -> None:
        """Count what a cut that stays has cost."""
        self.spent += max(self.guard.drop(before, after), 0.0)

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
