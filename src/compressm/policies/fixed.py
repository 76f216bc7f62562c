"""A size that is known beforehand: a fraction of the states, or a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import final

from compressm.arguments import share, whole
from compressm.policies.base import Policy, register_policy
from compressm.spectrum import Spectrum


@final
@register_policy("fraction")
@dataclass(frozen=True)
class FixedFraction(Policy):
    """Keep the given fraction of each layer's present states, rounded up."""

    keep: float

    def validate(self) -> None:
        self.take("keep", share("keep", self.keep))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return {site: math.ceil(self.keep * s.state_dim) for site, s in spectra.items()}


@final
@register_policy("rank")
@dataclass(frozen=True)
class FixedRank(Policy):
    """Keep `rank` states in every layer (a layer that has no more is left alone).

    An exact rank was asked for, so the gate, which spares tiny cuts, is open by default.
    """

    rank: int
    _: KW_ONLY
    gate: float = 1.0

    def validate(self) -> None:
        self.take("rank", whole("rank", self.rank, 1))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return dict.fromkeys(spectra, self.rank)
