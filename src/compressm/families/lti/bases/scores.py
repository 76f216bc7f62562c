"""Existing modes by a score of their own, as other people's pruning has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from compressm import numerics
from compressm.families.base import Which
from compressm.families.lti.bases.base import Basis
from compressm.families.lti.bases.modes import drawn
from compressm.families.lti.measured import Measured
from compressm.numerics import HankelMatrix, Reduction, StateSpace


@final
class ByScore(Basis):
    """The modes that score highest stay as they are, readout and all.

    The spectrum is that of the scores, so that policies compare states by them.

    Args:
        score: of each mode, see `compressm.numerics.lti.modal_scores`.
        label: what it looks at, for tables.
        endless: whether the score is of all time, so that modes have to decay.
    """

    bounded = False
    selects = True
    balances = False

    def __init__(
        self, score: Callable[[StateSpace], Tensor], label: str, *, endless: bool = True
    ) -> None:
        self._score, self.label, self.endless = score, label, endless

    def values(self, measured: Measured) -> Tensor:
        return self._score(measured.system).sort(-1, descending=True).values

    def hankel_matrix(self, measured: Measured) -> HankelMatrix:
        scores = self._score(measured.system)
        values, places = scores.sort(-1, descending=True)
        axes = torch.eye(scores.shape[-1], dtype=scores.dtype, device="cpu")
        vectors = axes[places].mT
        return HankelMatrix(matrix=torch.diag_embed(scores), values=values, vectors=vectors)

    def reduce(
        self, measured: Measured, rank: int, *, which: Which, generator: torch.Generator
    ) -> Reduction:
        system = measured.system
        if which == "random":
            indices = drawn(system.order, rank, system.A.shape[:-1], generator)
        else:
            order = self._score(system).argsort(dim=-1, descending=which == "largest", stable=True)
            indices = order[..., :rank]
        return numerics.mode_reduction(system, None, indices.sort(-1).values)
