"""A size that is known beforehand: a fraction of the states, or a number, or one by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import final

from compressm.arguments import did_you_mean, share, shown, whole
from compressm.errors import InputError
from compressm.policies.base import Policy, register_policy
from compressm.spectrum import Spectrum

# Layers that an error lists.
_LISTED = 8


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


@final
@register_policy("layers")
@dataclass(frozen=True)
class LayerRanks(Policy):
    """Keep so many states in each layer that is named by its module path, and all in the others.

    Exact ranks were asked for, so the gate is open by default.
    """

    ranks: dict[str, int]
    _: KW_ONLY
    gate: float = 1.0

    def validate(self) -> None:
        if not isinstance(self.ranks, Mapping) or not self.ranks:
            raise InputError(
                f"ranks: expected states by module path, got {shown(self.ranks)}; for example "
                "LayerRanks({'blocks.0.layer': 16})"
            )
        ranks = {str(site): whole(f"ranks: {site}", n, 1) for site, n in self.ranks.items()}
        self.take("ranks", ranks)

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        for site in self.ranks:
            if site not in spectra:
                known = ", ".join(map(repr, list(spectra)[:_LISTED]))
                raise InputError(
                    f"ranks: there is no layer {site!r}{did_you_mean(site, spectra)}; the layers "
                    f"are {known}{', …' if len(spectra) > _LISTED else ''}"
                )
        return {site: self.ranks.get(site, s.state_dim) for site, s in spectra.items()}
