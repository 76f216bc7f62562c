"""Energy of each state's own contribution, as forward-statistics pruning has it."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.orders.base import register_order
from compressm.families.matrix_state.orders.contributions import ByContributions
from compressm.numerics.matrix_state.matching import TermOrder, ranked_terms


@final
@register_order("diagonal")
class Diagonal(ByContributions):
    """The diagonal of M: that states are correlated does not count."""

    label: ClassVar = "own energy"

    def terms(self, M: Tensor, group: int) -> TermOrder:
        return ranked_terms(M, M.diagonal(), len(M))
