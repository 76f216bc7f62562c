"""Balanced coordinates, then diagonal form."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from compressm import numerics
from compressm.families.base import Which
from compressm.families.lti.bases.base import Basis
from compressm.families.lti.bases.modes import Modes
from compressm.families.lti.measured import Measured
from compressm.numerics import HankelMatrix, Reduction


@final
class Balanced(Basis):
    """Balanced truncation; what room it leaves is filled with modes that a refit can use."""

    label = "balanced"
    balances = True
    bounded = True
    selects = False
    endless = False

    def values(self, measured: Measured) -> Tensor:
        return measured.balancing.sigma

    def hankel_matrix(self, measured: Measured) -> HankelMatrix:
        return numerics.hankel_matrix(measured.gramians.P, measured.gramians.Q)

    def reduce(
        self, measured: Measured, rank: int, *, which: Which, generator: torch.Generator
    ) -> Reduction:
        system, balancing = measured.system, measured.balancing
        if balancing.numerical_rank == 0:
            # With nothing to balance (a dead layer), any modes do; their refit makes them exact.
            return Modes().reduce(measured, rank, which=which, generator=generator)
        reduction = numerics.balanced_truncation(
            system, balancing, rank, which=which, generator=generator, strict=False
        )
        assert reduction.orders is not None
        # Fewer states than asked for hold all there is only at full numerical rank. All groups
        # keep the same number in any case.
        whole = bool((reduction.orders == balancing.ranks).all())
        reduction = numerics.padded(
            system, reduction, reduction.rank if whole else rank, P=measured.white
        )
        driven = numerics.with_idle_parts_driven(system, reduction.system)
        return numerics.with_driven_parts(reduction, driven)
