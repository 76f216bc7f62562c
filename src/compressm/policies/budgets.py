"""At most so many parameters, or bytes of recurrent state, in the whole model.

The states of all layers are ranked against each other, and the least important ones are dropped
until the budget holds. A budget is a bound, so the gate is open, and ranks are rounded down to
`multiple_of` (never below `min_rank`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import final

from compressm.arguments import amount
from compressm.errors import InputError
from compressm.policies.base import Bound, LiveModel, LivePolicy, Policy, register_policy
from compressm.policies.scores import RULES, state_scores
from compressm.spectrum import Spectrum


@final
@register_policy("parameters")
@dataclass(frozen=True)
class ParameterBudget(LivePolicy, Bound):
    """At most `limit` parameters in the whole model."""

    limit: int
    _: KW_ONLY
    rule: str = "energy"
    gate: float = 1.0

    def validate(self) -> None:
        amount("limit", self.limit)
        RULES.find(self.rule)

    def targets_of(self, spectra: Mapping[str, Spectrum], model: LiveModel) -> Mapping[str, int]:
        excess = model.parameters - self.limit
        return drop(self, self.rule, spectra, excess, lambda s: s.cost.parameters)

    def broken(
        self, spectra: Mapping[str, Spectrum], states: Mapping[str, int], model: LiveModel
    ) -> str | None:
        gone = ((s.state_dim - states[site]) * s.cost.parameters for site, s in spectra.items())
        return over(model.parameters - sum(gone), self.limit, "parameters")


@final
@register_policy("state-bytes")
@dataclass(frozen=True)
class StateBytesBudget(Policy, Bound):
    """At most `limit` bytes of recurrent state for each sequence, all layers together."""

    limit: int
    _: KW_ONLY
    rule: str = "energy"
    gate: float = 1.0

    def validate(self) -> None:
        amount("limit", self.limit)
        RULES.find(self.rule)

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        now = sum(s.state_dim * s.cost.state_bytes for s in spectra.values())
        return drop(self, self.rule, spectra, now - self.limit, lambda s: s.cost.state_bytes)

    def broken(
        self, spectra: Mapping[str, Spectrum], states: Mapping[str, int], model: LiveModel
    ) -> str | None:
        left = sum(states[site] * s.cost.state_bytes for site, s in spectra.items())
        return over(left, self.limit, "bytes of state")


def over(left: float, limit: float, unit: str) -> str | None:
    """A line where a plan leaves more than the budget, else None."""
    if left <= limit:
        return None
    return (
        f"the budget of {limit:,} {unit} does not hold: the plan leaves {left:,}, as layers of "
        "one size (uniform) keep what the largest needs, and a layer may lack the rank asked for"
    )


def drop(
    policy: Policy,
    rule: str,
    spectra: Mapping[str, Spectrum],
    excess: float,
    saved: Callable[[Spectrum], float],
) -> dict[str, int]:
    """Ranks after dropping states, the least important first, until `excess` is saved.

    Args:
        policy: says `min_rank` and `multiple_of`.
        rule: of importance, see `state_scores`.
        spectra: of all layers.
        excess: what is over the budget.
        saved: what dropping one state of a layer saves.

    Raises:
        InputError: the smallest allowed ranks save less than `excess`.
    """
    scores = {site: state_scores(s, rule) for site, s in spectra.items()}
    ranks = {site: s.state_dim for site, s in spectra.items()}

    def after(site: str) -> int:
        below = (ranks[site] - 1) // policy.multiple_of * policy.multiple_of
        below = spectra[site].at_most(below)
        return below if below >= policy.min_rank else ranks[site]

    while excess > 0:
        open_sites = [site for site in ranks if after(site) < ranks[site]]
        if not open_sites:
            raise InputError(
                f"budget: {excess:g} more than min_rank={policy.min_rank} in every layer "
                "can save; allow more, or make the rest of the model smaller"
            )
        # The next chunk of a layer is as important as its most important state.
        site = min(open_sites, key=lambda site: scores[site][after(site)])
        excess -= (ranks[site] - after(site)) * saved(spectra[site])
        ranks[site] = after(site)
    return ranks
