"""Hankel singular value of each mode under averaged dynamics, as the paper has it for Mamba."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.orders.base import register_order
from compressm.families.matrix_state.orders.contributions import ByContributions
from compressm.numerics.matrix_state.averaged import AveragedDynamics
from compressm.numerics.matrix_state.contributions import Weigh
from compressm.numerics.matrix_state.matching import TermOrder, ranked_terms


@final
@register_order("hankel")
class Hankel(ByContributions):
    """For layers with step sizes."""

    label: ClassVar = "averaged dynamics"

    def __init__(self, layer: MatrixStateLayer, weigh: Weigh) -> None:
        super().__init__(layer, weigh)
        channels = layer.out_weight.shape[1] // layer.groups
        self.averages = AveragedDynamics(layer.groups, channels, layer.state_dim)

    def terms(self, M: Tensor, group: int) -> TermOrder:
        assert self.averages is not None
        return ranked_terms(M, self.averages.scores()[group], len(M))
