"""Gramians and singular values of one linear layer, and the reductions they allow."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from compressm.families.base import Draft, Measurement, Which
from compressm.families.lti.bases import BASES
from compressm.families.lti.draft import LinearDraft
from compressm.families.lti.family import LinearFamily
from compressm.families.lti.measured import Measured
from compressm.families.lti.methods import LinearMethod
from compressm.families.lti.refits import REFITS
from compressm.numerics import HankelMatrix
from compressm.numerics.lti.room import Room
from compressm.spectrum import Spectrum


@final
class LinearMeasurement(Measurement):
    """One measured layer.

    A layer with groups has one rank, and one spectrum: σ_i is the largest of its groups' σ_i.
    Groups are channels in parallel, so 2 Σ_{i>r} of these bounds the error of the layer, and a
    state goes only where no channel misses it. A root of summed squares would bound it too, more
    loosely, and let many channels that need little outvote one that needs much.
    """

    def __init__(
        self,
        family: LinearFamily,
        module: nn.Module,
        method: LinearMethod,
        measured: Measured,
        unseen: str | None,
    ) -> None:
        self._family, self._module, self._method = family, module, method
        self.measured = measured
        self._basis = BASES[method.basis]
        order, sigma = measured.system.order, self._basis.values(measured)
        kind = measured.kind if self._basis.balances else "scores"
        self.spectrum = Spectrum(
            values=sigma if sigma.ndim == 1 else sigma.amax(0),
            state_dim=order,
            per_state=sigma.shape[-1] // order,
            kind=kind,
            guaranteed=method.guaranteed and kind == "infinite",
            room=self._room(),
            cost=family.cost(module),
            unseen=unseen,
        )

    def _room(self) -> Room | None:
        """What states have room for, where a real eigenvalue needs one alone."""
        measured = self.measured
        if not (self._basis.balances and measured.real and measured.balancing.numerical_rank):
            return None
        return Room(measured.system, measured.balancing)

    def hankel_matrix(self) -> HankelMatrix:
        return self._basis.hankel_matrix(self.measured)

    def reduce(self, rank: int, *, select: Which, generator: torch.Generator) -> Draft:
        reduction = self._basis.reduce(self.measured, rank, which=select, generator=generator)
        chosen = reduction.indices is not None
        refit = REFITS[self._method.refit]
        if chosen and not refit.of_modes:
            refit = REFITS["none"]
        return LinearDraft(
            self._family,
            self._module,
            self.measured,
            refit(self.measured, reduction, self._family.inputs, self._module),
            # The bound is about the largest singular values.
            guaranteed=self._method.guaranteed and select == "largest" and not chosen,
        )
