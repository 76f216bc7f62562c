"""How much is written into each state and read from it: the diagonal of P o Q."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.orders.base import register_order
from compressm.families.matrix_state.orders.gramians import ByGramians
from compressm.numerics.matrix_state.matching import TermOrder, ranked_terms


@final
@register_order("energy")
class Energy(ByGramians):
    """E[k_n^2] E[q_n^2]."""

    label: ClassVar = "energy of keys and queries"

    def terms(self, M: Tensor, columns: Tensor) -> TermOrder:
        return ranked_terms(M, M.diagonal(), len(M))
