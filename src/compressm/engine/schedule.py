"""When to cut: which training steps are due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressm.arguments import real, shown, whole
from compressm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Cut at start + every, start + 2 every, …, up to and including `stop`.

    Nothing has been learned at `start` itself, so it is not a cut. Steps are optimizer steps,
    counted from 1 by `Compressor.step()`.

    Attributes:
        start: steps before the window opens.
        stop: last step of the window.
        every: distance between cuts.
        steps: explicit steps instead of a window (see `Schedule.at`).
    """

    start: int = 0
    stop: int = 0
    every: int = 1
    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Resolve the window into explicit steps, and refuse one that never cuts."""
        for name, value in (("start", self.start), ("stop", self.stop), ("every", self.every)):
            object.__setattr__(self, name, whole(name, value))
        given: Any = self.steps
        if not isinstance(given, (tuple, list)):
            raise InputError(f"steps: expected step numbers, got {shown(given)}")
        object.__setattr__(self, "steps", tuple(whole("steps", step) for step in given))
        if self.steps:
            if list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1:
                raise InputError(
                    f"steps: expected increasing step numbers from 1 on, got {self.steps}"
                )
            return
        if self.every < 1 or self.start < 0:
            raise InputError(
                "expected start >= 0 and every >= 1, "
                f"got start={self.start}, stop={self.stop}, every={self.every}"
            )
        due = tuple(range(self.start + self.every, self.stop + 1, self.every))
        if not due:
            raise InputError(
                f"this schedule never cuts: start={self.start} + every={self.every} "
                f"is past stop={self.stop}"
            )
        object.__setattr__(self, "steps", due)

    @classmethod
    def spaced(cls, *, cuts: int, stop: int, start: int = 0) -> Schedule:
        """`cuts` cuts, equally spaced in (start, stop], the last one at `stop`.

        The paper cuts four times inside the learning-rate warm-up (arXiv 2510.02823, section 4):
        `Schedule.spaced(cuts=4, stop=warmup_steps)`.

        Raises:
            InputError: when the window has fewer steps than cuts.
        """
        cuts, stop, start = whole("cuts", cuts), whole("stop", stop), whole("start", start)
        if cuts < 1 or stop - start < cuts:
            raise InputError(
                f"cuts: expected 1 … {max(stop - start, 0)} cuts in the steps {start} … {stop}, "
                f"got {cuts}"
            )
        return cls.at(*(start + round((stop - start) * (i + 1) / cuts) for i in range(cuts)))

    @classmethod
    def at(cls, *steps: int) -> Schedule:
        """Cut at exactly these steps."""
        if not steps:
            raise InputError("steps: expected at least one step, got none")
        return cls(steps=steps)

    def next_after(self, step: int) -> int | None:
        """The first due step after `step`, or None when there is none left."""
        return next((due for due in self.steps if due > step), None)


@dataclass(frozen=True, kw_only=True)
class WhenSettled:
    """Measure every so often and cut at the moment at which the ranking of states has settled.

    Attributes:
        every: steps between measurements.
        latest: cut here at the latest, settled or not.
        cuts: how many cuts are to stay. One that a guard undoes does not count, nor does a
            measurement at which the policy changes nothing. After each the ranking must settle
            anew.
        tolerance, patience, slack, min_correlation: what "settled" means, see `Monitor`.
    """

    every: int
    latest: int
    cuts: int = 1
    tolerance: float = 0.1
    patience: int = 3
    slack: float = 1.5
    min_correlation: float = 0.9

    def __post_init__(self) -> None:
        """Refuse a schedule that never measures."""
        for name in ("every", "latest", "cuts", "patience"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name in ("tolerance", "slack", "min_correlation"):
            object.__setattr__(self, name, real(name, getattr(self, name)))
        if self.every < 1 or self.latest < self.every or self.cuts < 1:
            raise InputError(
                "expected every >= 1, latest >= every, cuts >= 1, "
                f"got every={self.every}, latest={self.latest}, cuts={self.cuts}"
            )

    def next_after(self, step: int) -> int | None:
        """The next measurement after `step`, or None past `latest`."""
        if step >= self.latest:
            return None
        return min((step // self.every + 1) * self.every, self.latest)
