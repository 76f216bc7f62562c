"""The event of one call, with the time that it took."""

from __future__ import annotations

import math
import time
from typing import Any, final

from compressm.engine.guard import Guard
from compressm.engine.training_run import TrainingRun
from compressm.events import Event, SiteChange


@final
class Stopwatch:
    """Started with a call of the compressor; its event counts evaluations of the guard apart."""

    def __init__(self, run: TrainingRun, step: int | None) -> None:
        self.step = step
        self._run, self._started, self._evaluating = run, time.perf_counter(), 0.0

    def evaluate(self, guard: Guard) -> float:
        """The guard's metric of the live model."""
        started = time.perf_counter()
        try:
            return self._run.evaluate(guard.evaluate)
        finally:
            self._evaluating += time.perf_counter() - started

    def event(
        self,
        kind: str,
        changes: tuple[SiteChange, ...],
        *,
        parameters_before: int,
        metric_after: float | None = None,
        **more: Any,
    ) -> Event:
        """What has happened since the start; `more` are attributes of the event."""
        finite = metric_after is not None and math.isfinite(metric_after)
        return Event(
            step=self.step,
            kind=kind,
            method=", ".join(dict.fromkeys(change.method for change in changes)),
            sites=changes,
            parameters_before=parameters_before,
            parameters_after=self._run.parameters,
            seconds=time.perf_counter() - self._started - self._evaluating,
            evaluation_seconds=self._evaluating,
            metric_after=metric_after if finite else None,
            **more,
        )
