"""Strong rank-revealing QR of keys and queries stacked: the published choice after training."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.orders.base import register_order
from compressm.families.matrix_state.orders.gramians import ByGramians
from compressm.families.matrix_state.orders.pivoted_qr import by_pivots
from compressm.numerics.matrix_state.matching import TermOrder


@final
@register_order("strong-rrqr")
class StrongRRQR(ByGramians):
    """Pivoted QR, then exchanges for the number of states that stays; energies are the pivots'.

    Source: arXiv 2602.04852; Gu and Eisenstat 1996.
    """

    label: ClassVar = "strong RRQR of keys and queries"
    exchanges: ClassVar[bool] = True

    def terms(self, M: Tensor, columns: Tensor) -> TermOrder:
        return by_pivots(M, columns)
