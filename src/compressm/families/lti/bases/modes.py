"""Existing modes, chosen greedily in the H2 sense."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from compressm import numerics
from compressm.families.base import Which
from compressm.families.lti.bases.base import Basis
from compressm.families.lti.measured import Measured
from compressm.numerics import HankelMatrix, Reduction


@final
class Modes(Basis):
    """Modes as they are, with the readout that the moments which chose them fit best."""

    label = "existing modes, greedy"
    balances = True
    bounded = False
    selects = True
    endless = False

    def values(self, measured: Measured) -> Tensor:
        return measured.balancing.sigma

    def hankel_matrix(self, measured: Measured) -> HankelMatrix:
        return numerics.hankel_matrix(measured.gramians.P, measured.gramians.Q)

    def reduce(
        self, measured: Measured, rank: int, *, which: Which, generator: torch.Generator
    ) -> Reduction:
        system = measured.system
        P = measured.P if measured.real else numerics.gramians(system).P
        if measured.real_readout:
            # What nobody reads is like a direction that nothing drives.
            P = numerics.real_parts(P)
        # The smallest are those that a greedy choice of all others leaves.
        every = system.order if which == "smallest" else rank
        if which == "random":
            indices = drawn(system.order, rank, system.A.shape[:-1], generator)
        else:
            indices = numerics.greedy_modes(system, P, every).indices[..., -rank:]
        return numerics.mode_reduction(system, P, indices.sort(-1).values)


def drawn(order: int, rank: int, groups: torch.Size, generator: torch.Generator) -> Tensor:
    """Modes at random, of each group its own: (r,) or (G, r)."""
    rows = [
        torch.randperm(order, generator=generator, device="cpu")[:rank]
        for _ in range(groups.numel())
    ]
    return torch.stack(rows).view(*groups, rank)
