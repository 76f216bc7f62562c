"""A budget in seconds a step, measured on the machine at hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import final

from compressm.arguments import amount, function, whole
from compressm.errors import InputError
from compressm.policies.base import LiveModel, LivePolicy
from compressm.policies.candidates import candidates
from compressm.spectrum import Spectrum


@final
@dataclass(frozen=True)
class StepTimeBudget(LivePolicy):
    """The largest states whose step takes at most `seconds`, measured on this machine.

    Attributes:
        step: runs what is to be fast, say one training step, on the live model. It must not change
            the weights (leave out `optimizer.step()`); they are put back anyway.
        seconds: median of `repeats` runs after one that is not counted; each ends when the devices
            of the model have nothing left to do.
        max_trials: plans that are timed at most.
    """

    step: Callable[[], object]
    seconds: float
    _: KW_ONLY
    repeats: int = 5
    max_trials: int = 8

    def validate(self) -> None:
        function("step", self.step)
        self.take("seconds", amount("seconds", self.seconds))
        for name in ("repeats", "max_trials"):
            self.take(name, whole(name, getattr(self, name), 1))

    def targets_of(self, spectra: Mapping[str, Spectrum], model: LiveModel) -> Mapping[str, int]:
        plans = candidates(self, spectra)
        measured: dict[int, float] = {}

        def fits(index: int) -> bool:
            with model.trial(plans[index]):
                measured[index] = model.evaluate(lambda: self._measure(model.wait))
            return measured[index] <= self.seconds

        low, high = -1, len(plans) - 1
        if not fits(high):
            raise InputError(
                f"seconds: the smallest plan takes {measured[high]:.4g} s a step, the budget is "
                f"{self.seconds:.4g} s; allow more, or make the rest of the model faster"
            )
        while high - low > 1 and len(measured) < self.max_trials:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        model.notes.append(
            f"{len(measured)} plans timed, the chosen one takes {measured[high]:.4g} s a step"
        )
        return plans[high]

    def _measure(self, wait: Callable[[], None]) -> float:
        self.step()
        times = []
        for _ in range(self.repeats):
            wait()
            started = time.perf_counter()
            self.step()
            wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times)
