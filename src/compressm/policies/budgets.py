"""Policies with a budget for the whole model: parameters, state bytes, error, metric, step time.

The first three rank the states of all layers against each other and drop the least important until
the budget holds; the last two try out plans on the live model.
"""

from __future__ import annotations

import math
import statistics
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, final

import torch

from compressm.arguments import amount, function, real, whole
from compressm.errors import InputError
from compressm.policies.base import EnergyTolerance, LiveModel, Policy, register_policy
from compressm.spectrum import Spectrum

Rule = Literal["energy", "error", "prefix"]
RULES: tuple[Rule, ...] = ("energy", "error", "prefix")


def state_scores(spectrum: Spectrum, rule: Rule) -> list[float]:
    """The importance of each state of a layer, comparable over layers, non-increasing.

    With e_i the singular values of state i summed: "energy" is e_i / Σ_j e_j; "error" is e_i
    itself, half of what dropping the state adds to the H-infinity bound; "prefix" is
    e_i / Σ_{j<=i} e_j (LAST, Gwak et al., NeurIPS 2024, normalises its modal scores this way), so
    the first state of every layer scores 1.
    """
    if rule not in RULES:
        raise InputError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    e = spectrum.by_state
    if spectrum.unseen:  # nothing says that any of them can go
        return [math.inf] * spectrum.state_dim
    if spectrum.total == 0:
        return [0.0] * spectrum.state_dim
    if rule == "energy":
        e = e / spectrum.total
    elif rule == "prefix":
        e = e / e.cumsum(0)
    return [float(score) for score in e]


@dataclass(frozen=True)
class _Ranked(Policy):
    """Drops the least important states of all layers until `excess` is gone.

    The budget is a bound, so the shared gate is open, and ranks are rounded down to `multiple_of`
    (never below `min_rank`).
    """

    _: KW_ONLY
    rule: Rule = "energy"
    gate: float = 1.0

    def validate(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"rule: expected one of {', '.join(RULES)}, got {self.rule!r}")

    @abstractmethod
    def saved(self, spectrum: Spectrum, states: int) -> float:
        """What dropping so many states of this layer saves."""

    def drop(self, spectra: Mapping[str, Spectrum], excess: float) -> dict[str, int]:
        """Ranks after dropping, in order of importance, until `excess` is saved.

        Raises:
            InputError: the smallest allowed ranks save less than `excess`.
        """
        scores = {site: state_scores(s, self.rule) for site, s in spectra.items()}
        ranks = {site: s.state_dim for site, s in spectra.items()}

        def after(site: str) -> int:
            below = (ranks[site] - 1) // self.multiple_of * self.multiple_of
            return below if below >= self.min_rank else ranks[site]

        while excess > 0:
            open_sites = [site for site in ranks if after(site) < ranks[site]]
            if not open_sites:
                raise InputError(
                    f"budget: {excess:g} more than min_rank={self.min_rank} in every layer "
                    "can save; allow more, or make the rest of the model smaller"
                )
            # The next chunk of a layer is as important as its most important state.
            site = min(open_sites, key=lambda site: scores[site][after(site)])
            excess -= self.saved(spectra[site], ranks[site] - after(site))
            ranks[site] = after(site)
        return ranks

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return self.drop(spectra, 0.0)


@final
@register_policy("parameters")
@dataclass(frozen=True)
class ParameterBudget(_Ranked):
    """At most `limit` parameters in the whole model."""

    limit: int

    def validate(self) -> None:
        super().validate()
        amount("limit", self.limit)

    def saved(self, spectrum: Spectrum, states: int) -> float:
        return states * spectrum.cost.parameters

    def plan(
        self, spectra: Mapping[str, Spectrum], model: LiveModel | None = None
    ) -> dict[str, int]:
        if model is None:
            raise InputError("ParameterBudget needs the live model; use compress_ or a Compressor")
        return self.drop(spectra, model.parameters - self.limit)


@final
@register_policy("state-bytes")
@dataclass(frozen=True)
class StateBytesBudget(_Ranked):
    """At most `limit` bytes of recurrent state for each sequence, all layers together."""

    limit: int

    def validate(self) -> None:
        super().validate()
        amount("limit", self.limit)

    def saved(self, spectrum: Spectrum, states: int) -> float:
        return states * spectrum.cost.state_bytes

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        now = sum(s.state_dim * s.cost.state_bytes for s in spectra.values())
        return self.drop(spectra, now - self.limit)


@final
@register_policy("threshold")
@dataclass(frozen=True)
class GlobalThreshold(Policy):
    """Keep every state whose score (see `state_scores`) is at least `threshold`, in all layers."""

    threshold: float
    _: KW_ONLY
    rule: Rule = "prefix"

    def validate(self) -> None:
        if self.rule not in RULES or not real("threshold", self.threshold) >= 0:
            raise InputError(
                f"expected threshold >= 0 and rule one of {', '.join(RULES)}, "
                f"got {self.threshold!r} and {self.rule!r}"
            )

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return {
            site: sum(score >= self.threshold for score in state_scores(s, self.rule))
            for site, s in spectra.items()
        }


@dataclass(frozen=True)
class _Searched(Policy):
    """Tries plans of growing energy tolerance on the live model, by bisection."""

    _: KW_ONLY
    max_trials: int = 8

    def validate(self) -> None:
        self.take("max_trials", whole("max_trials", self.max_trials, 1))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        raise InputError(f"{type(self).__name__} needs the live model; use compress_ or Compressor")

    def candidates(self, spectra: Mapping[str, Spectrum]) -> list[dict[str, int]]:
        """Distinct plans from the full model to the smallest, by energy tolerance."""
        levels = [0.0, *torch.logspace(-4, 0, 128, dtype=torch.float64, device="cpu").tolist()[:-1]]
        plans: list[dict[str, int]] = [{site: s.state_dim for site, s in spectra.items()}]
        for level in levels:
            targets = EnergyTolerance(level).targets(spectra)
            plan = {s: self.constrain(targets[s], spectra[s].state_dim) for s in spectra}
            if plan != plans[-1]:
                plans.append(plan)
        return plans


@final
@dataclass(frozen=True)
class MetricBudget(_Searched):
    """The smallest states whose metric, right after the cut, is within the budget.

    Bisection over energy tolerances: about log2 of the number of distinct plans evaluations, each
    on the live model, which is put back every time.

    Attributes:
        evaluate: the metric of the live model, in the user's unit.
        max_drop: what the cut may cost.
        higher_is_better: False for a loss.
    """

    evaluate: Callable[[], float]
    max_drop: float
    _: KW_ONLY
    higher_is_better: bool = True

    def validate(self) -> None:
        super().validate()
        function("evaluate", self.evaluate)
        if not math.isfinite(real("max_drop", self.max_drop)):
            raise InputError(f"max_drop: expected a finite number, got {self.max_drop!r}")
        self.take("max_drop", real("max_drop", self.max_drop))

    def plan(
        self, spectra: Mapping[str, Spectrum], model: LiveModel | None = None
    ) -> dict[str, int]:
        if model is None:
            return dict(self.targets(spectra))
        plans = self.candidates(spectra)
        sign = 1 if self.higher_is_better else -1
        with model.trial(plans[0]):  # changes nothing, and puts the random numbers back
            before = model.evaluate(self.evaluate)
        if not math.isfinite(before):
            raise InputError(f"evaluate: expected a finite metric before the cut, got {before!r}")

        def fits(plan: Mapping[str, int]) -> bool:
            with model.trial(plan):
                after = model.evaluate(self.evaluate)
                # What is no number does not pass, in whichever direction it is infinite.
                return math.isfinite(after) and sign * (before - after) <= self.max_drop

        low, high, trials = 0, len(plans), 0
        while high - low > 1 and trials < self.max_trials:
            middle, trials = (low + high) // 2, trials + 1
            low, high = (middle, high) if fits(plans[middle]) else (low, middle)
        model.notes.append(f"{trials + 1} evaluations for {len(plans)} distinct plans")
        return plans[low]


@final
@dataclass(frozen=True)
class StepTimeBudget(_Searched):
    """The largest states whose step takes at most `seconds`, measured on this machine.

    Attributes:
        step: runs what is to be fast, say one training step, on the live model. It must not change
            the weights (leave out `optimizer.step()`); they are put back anyway.
        seconds: median of `repeats` runs after one that is not counted; each ends when the devices
            of the model have nothing left to do.
    """

    step: Callable[[], object]
    seconds: float
    _: KW_ONLY
    repeats: int = 5

    def validate(self) -> None:
        super().validate()
        function("step", self.step)
        self.take("seconds", amount("seconds", self.seconds))
        self.take("repeats", whole("repeats", self.repeats, 1))

    def plan(
        self, spectra: Mapping[str, Spectrum], model: LiveModel | None = None
    ) -> dict[str, int]:
        if model is None:
            return dict(self.targets(spectra))
        plans = self.candidates(spectra)
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
