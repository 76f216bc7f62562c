"""A budget in the user's own metric, right after the cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import final

from compressm.arguments import function, real, whole
from compressm.errors import InputError
from compressm.policies.base import LiveModel, LivePolicy
from compressm.policies.candidates import candidates
from compressm.spectrum import Spectrum


@final
@dataclass(frozen=True)
class MetricBudget(LivePolicy):
    """The smallest states whose metric, right after the cut, is within the budget.

    Bisection over energy tolerances: about log2 of the number of distinct plans evaluations, each
    on the live model, which is put back every time. Where even the smallest plan makes no
    difference that the budget would notice, the event says so.

    Attributes:
        evaluate: the metric of the live model, in the user's unit.
        max_drop: what the cut may cost.
        higher_is_better: False for a loss.
        max_trials: plans that are evaluated at most.
    """

    evaluate: Callable[[], float]
    max_drop: float
    _: KW_ONLY
    higher_is_better: bool = True
    max_trials: int = 8

    def validate(self) -> None:
        function("evaluate", self.evaluate)
        self.take("max_trials", whole("max_trials", self.max_trials, 1))
        if not math.isfinite(real("max_drop", self.max_drop)):
            raise InputError(f"max_drop: expected a finite number, got {self.max_drop!r}")
        self.take("max_drop", real("max_drop", self.max_drop))

    def targets_of(self, spectra: Mapping[str, Spectrum], model: LiveModel) -> Mapping[str, int]:
        plans = candidates(self, spectra)
        sign = 1 if self.higher_is_better else -1
        with model.trial(plans[0]):  # changes nothing, and puts the random numbers back
            before = model.evaluate(self.evaluate)
        if not math.isfinite(before):
            raise InputError(f"evaluate: expected a finite metric before the cut, got {before!r}")
        measured: dict[int, float] = {}

        def fits(index: int) -> bool:
            with model.trial(plans[index]):
                after = measured[index] = model.evaluate(self.evaluate)
                # What is no number does not pass, in whichever direction it is infinite.
                return math.isfinite(after) and sign * (before - after) <= self.max_drop

        low, high = 0, len(plans)
        while high - low > 1 and len(measured) < self.max_trials:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        model.notes.append(f"{len(measured) + 1} evaluations for {len(plans)} distinct plans")
        smallest = measured.get(len(plans) - 1, math.inf)
        if abs(smallest - before) <= self.max_drop:
            model.notes.append(
                f"the metric is {smallest:.6g} with the smallest plan and {before:.6g} before the "
                "cut, the same to within what a cut may cost: it cannot tell a good cut from a bad "
                "one"
            )
        return plans[low]
