"""What a run takes, read from the lines `run/…` of its metrics: seconds, step times, bytes."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

Series = Callable[[str], tuple[list[int], list[float]]]


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """One run; every answer is None where its files do not say, or say no finite number.

    Attributes:
        seconds: wall-clock of the run at each known step, steps ascending; of several lines of one
            step the last.
        step_ms: median step times as the lines have them: of the steps since the last cut, and at
            the step of a cut of those before it.
        training_bytes: parameters, gradients and optimizer states.
        joules: of the whole run so far.
    """

    seconds: Sequence[tuple[int, float]]
    step_ms: Sequence[tuple[int, float]]
    training_bytes: Sequence[tuple[int, float]]
    joules: float | None

    @classmethod
    def of(cls, series: Series, joules: float | None = None) -> Pacing:
        """From the steps and values of metrics by name; `joules`, if the whole run is counted."""
        so_far = [joules for _, joules in _last_of_each(series("run/joules"))]
        return cls(
            seconds=_last_of_each(series("run/seconds")),
            step_ms=_last_of_each(series("run/step_ms")),
            training_bytes=_last_of_each(series("run/training_bytes")),
            joules=joules if joules is not None else (so_far[-1] if so_far else None),
        )

    @cached_property
    def _steps(self) -> list[int]:
        return [step for step, _ in self.seconds]

    @cached_property
    def _step_ms_at(self) -> dict[int, float]:
        return dict(self.step_ms)

    @cached_property
    def _bytes_at(self) -> dict[int, float]:
        return dict(self.training_bytes)

    def seconds_at(self, step: float) -> float | None:
        """Between known steps on a straight line, after the last one the last."""
        if not self.seconds:
            return None
        place = bisect.bisect_left(self._steps, step)
        if place == len(self.seconds):
            return self.seconds[-1][1]
        right, later = self.seconds[place]
        if right == step or place == 0:
            return later
        left, earlier = self.seconds[place - 1]
        return earlier + (later - earlier) * (step - left) / (right - left)

    def watts(self) -> float | None:
        """Mean power of the run."""
        if self.joules is None or not self.seconds or self.seconds[-1][1] <= 0:
            return None
        return self.joules / self.seconds[-1][1]

    def step_ms_around(self, step: int, until: int | None) -> tuple[float | None, float | None]:
        """Before the cut at `step`, and after it up to the next one at `until`."""
        last = _last(self.step_ms, until)
        after = last if last is not None and last[0] > step else None
        return self._step_ms_at.get(step), after[1] if after else None

    def bytes_around(self, step: int) -> tuple[float | None, float | None]:
        """Before the cut at `step`, and right after it."""
        before = _last(self.training_bytes, step - 1)
        return before[1] if before else None, self._bytes_at.get(step)


def _last_of_each(series: tuple[list[int], list[float]]) -> list[tuple[int, float]]:
    known = dict(zip(*series, strict=True))
    return sorted((step, value) for step, value in known.items() if math.isfinite(value))


def _last(known: Sequence[tuple[int, float]], until: int | None) -> tuple[int, float] | None:
    """The last one up to a step, or of all."""
    place = len(known) if until is None else bisect.bisect_right(known, (until, math.inf))
    return known[place - 1] if place else None
