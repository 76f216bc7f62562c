"""So much of the energy stays: layer by layer, or of all layers together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import final

from compressm.arguments import share
from compressm.policies.base import Policy, register_policy
from compressm.spectrum import Spectrum


@final
@register_policy("energy")
@dataclass(frozen=True)
class EnergyTolerance(Policy):
    """Each layer drops the states with the least energy, `tolerance` of all its energy at most.

    The smallest r with Σ_{i>r} σ_i <= tolerance Σ σ_i (arXiv 2510.02823, section 3, τ).
    """

    tolerance: float

    def validate(self) -> None:
        self.take("tolerance", share("tolerance", self.tolerance, below_one=True))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return {site: s.rank_for_energy(self.tolerance) for site, s in spectra.items()}


@final
@register_policy("global-energy")
@dataclass(frozen=True)
class GlobalEnergy(Policy):
    """Rank the states of all layers against each other and discard `tolerance` of all energy.

    Each layer's singular values are divided by their sum first (layers differ in gain, which a
    norm removes), unless `normalise` is false. Layers whose energy sits in few states are cut
    harder than layers with a flat spectrum.
    """

    tolerance: float
    _: KW_ONLY
    normalise: bool = True

    def validate(self) -> None:
        self.take("tolerance", share("tolerance", self.tolerance, below_one=True))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        # A layer of which nothing was measured stays as it is.
        ranks = {site: s.state_dim if s.unseen else 0 for site, s in spectra.items()}
        pool: list[tuple[float, str]] = []
        for site, s in spectra.items():
            if s.unseen:
                continue
            pool += [(float(energy) / self._scale(s), site) for energy in s.by_state]
        # Within a layer the energies descend, so the kept ones are always its leading states.
        pool.sort(key=lambda entry: -entry[0])
        needed = (1 - self.tolerance) * math.fsum(energy for energy, _ in pool)
        kept = 0.0
        for energy, site in pool:
            if energy == 0 or (kept >= needed and self._held(spectra, ranks) >= needed):
                break
            kept += energy
            ranks[site] += 1
        return ranks

    def _held(self, spectra: Mapping[str, Spectrum], ranks: Mapping[str, int]) -> float:
        """What so many states of each layer hold: less than they seem to where a real eigenvalue
        takes one alone."""
        return math.fsum(
            (s.total - s.discarded(ranks[site])) / self._scale(s)
            for site, s in spectra.items()
            if not s.unseen
        )

    def _scale(self, spectrum: Spectrum) -> float:
        return spectrum.total if self.normalise and spectrum.total > 0 else 1.0
