"""One level of importance for all layers, as LAST has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import final

from compressm.arguments import real
from compressm.errors import InputError
from compressm.policies.base import Policy, register_policy
from compressm.policies.scores import RULES, state_scores
from compressm.spectrum import Spectrum


@final
@register_policy("threshold")
@dataclass(frozen=True)
class GlobalThreshold(Policy):
    """Keep every state whose score (see `state_scores`) is at least `threshold`, in all layers."""

    threshold: float
    _: KW_ONLY
    rule: str = "prefix"

    def validate(self) -> None:
        if not real("threshold", self.threshold) >= 0:
            raise InputError(f"threshold: expected a number >= 0, got {self.threshold!r}")
        RULES.find(self.rule)

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return {
            site: sum(score >= self.threshold for score in state_scores(s, self.rule))
            for site, s in spectra.items()
        }
