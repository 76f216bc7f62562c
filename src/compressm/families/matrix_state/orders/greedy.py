"""States one by one, each time the one that explains most of the output with those before it."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.orders.base import register_order
from compressm.families.matrix_state.orders.contributions import ByContributions
from compressm.numerics.matrix_state.matching import TermOrder, greedy_terms


@final
@register_order("greedy")
class Greedy(ByContributions):
    """With weights of the contributions where the layer can store them; else as `additive`."""

    label: ClassVar = "greedy, with weights"

    def terms(self, M: Tensor, group: int) -> TermOrder:
        return greedy_terms(M, len(M), weighted=self.layer.weighable)
