"""Grow a layer that needs most of its states, cut one that needs few of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

from compressm.arguments import real, share, whole
from compressm.errors import InputError
from compressm.policies.base import Policy, register_policy
from compressm.spectrum import Spectrum


@final
@register_policy("elastic")
@dataclass(frozen=True)
class Elastic(Policy):
    """Grow a layer that needs more than the share `full` of its states, cut one that needs few.

    A layer of N states needs r of them, the smallest number with Σ_{i>r} σ_i <= tolerance Σ σ_i.
    It has the right size where r is the share `full` of its states, n = r / full. It

        grows to factor N    where n > N: its spectrum is full,
        is cut to n          where n < gate N,
        stays as it is       in between.

    The last σ alone would be a poor judge: it falls exponentially with N, so that no level of it
    means the same for 16 states and for 128.

    New states carry nothing until they have trained, and a cut that took them back at once would
    begin the same again. With gate factor <= 1 it cannot: after growing n > N = N' / factor, and a
    cut asks for n < gate N'. And a cut leaves r of n states needed, so that the layer is not full.

    Attributes:
        tolerance: share of energy beyond the states that are needed.
        full: share of the states, needed ones, above which a layer grows.
        factor: by which it grows, rounded up, then up to `multiple_of`.
        max_rank: it never grows beyond; None: no such limit.
        gate: as in other policies; here the share to which a layer must have become too large.
    """

    grows: ClassVar[bool] = True

    tolerance: float
    _: KW_ONLY
    full: float = 0.5
    factor: float = 1.5
    max_rank: int | None = None
    gate: float = 0.6

    def validate(self) -> None:
        self.take("tolerance", share("tolerance", self.tolerance, below_one=True))
        self.take("full", share("full", self.full))
        if self.full == 0:
            raise InputError("full: expected 0 < full <= 1, got 0: every layer would always grow")
        if not 1 < real("factor", self.factor) <= 1 / self.gate:
            raise InputError(
                f"factor: expected 1 < factor <= 1 / gate = {1 / self.gate:.3g}, so that no cut "
                f"takes back what has just grown, got {self.factor:g}; make it or the gate smaller"
            )
        if self.max_rank is not None:
            self.take("max_rank", whole("max_rank", self.max_rank, self.min_rank))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return {site: self._target(spectrum) for site, spectrum in spectra.items()}

    def _target(self, spectrum: Spectrum) -> int:
        states = spectrum.state_dim
        if spectrum.unseen or spectrum.total == 0:
            return states
        right = math.ceil(spectrum.rank_for_energy(self.tolerance) / self.full)
        return max(self._grown(states), states) if right > states else right

    def _grown(self, states: int) -> int:
        by = self.multiple_of
        most = by * math.ceil(math.ceil(self.factor * states) / by)
        return most if self.max_rank is None else min(most, self.max_rank // by * by)
