"""States taken away one by one, each time the one whose loss costs least."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.orders.base import register_order
from compressm.families.matrix_state.orders.contributions import ByContributions
from compressm.numerics.matrix_state.matching import TermOrder, greedy_terms


@final
@register_order("additive")
class Additive(ByContributions):
    """Contributions at the weight that they have."""

    label: ClassVar = "greedy, as they are"

    def terms(self, M: Tensor, group: int) -> TermOrder:
        return greedy_terms(M, len(M), weighted=False)
