"""States taken away one by one, each time the one whose loss costs least of 1'(P o Q)1."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.orders.base import register_order
from compressm.families.matrix_state.orders.gramians import ByGramians
from compressm.numerics.matrix_state.matching import TermOrder, greedy_terms


@final
@register_order("elimination")
class Elimination(ByGramians):
    """Backward elimination on P o Q: DESIGN section 8."""

    label: ClassVar = "elimination on P∘Q"

    def terms(self, M: Tensor, columns: Tensor) -> TermOrder:
        return greedy_terms(M, len(M), weighted=False)
