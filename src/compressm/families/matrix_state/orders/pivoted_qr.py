"""QR with column pivoting of keys and queries stacked."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.families.matrix_state.orders.base import register_order
from compressm.families.matrix_state.orders.gramians import ByGramians
from compressm.numerics.matrix_state.gramians import pivots
from compressm.numerics.matrix_state.matching import TermOrder, ranked_terms


@final
@register_order("pivoted-qr")
class PivotedQR(ByGramians):
    """Key dimensions that span the others; energies are still those of P o Q."""

    label: ClassVar = "pivoted QR of keys and queries"

    def terms(self, M: Tensor, columns: Tensor) -> TermOrder:
        return by_pivots(M, columns)


def by_pivots(M: Tensor, columns: Tensor) -> TermOrder:
    """Terms of M in the order of the pivots of `columns`."""
    order = pivots(columns)
    scores = torch.empty(len(M), dtype=torch.float64, device="cpu")
    scores[order] = torch.arange(len(M), 0, -1, dtype=torch.float64, device="cpu")
    return ranked_terms(M, scores, len(M))
