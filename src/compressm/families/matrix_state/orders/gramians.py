"""Orders that look at the Gramians of keys and queries, and at no state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.orders.base import (
    Call,
    Order,
    Ranking,
    by_energies,
    settled,
)
from compressm.families.matrix_state.orders.norms import factors_by_totals
from compressm.numerics.matrix_state.contributions import Weigh
from compressm.numerics.matrix_state.gramians import (
    KeyQueryGramians,
    pooled_columns,
    pooled_terms,
    stacked,
)
from compressm.numerics.matrix_state.matching import TermOrder


class ByGramians(Order):
    """P = E[k k'] and Q = E[q q'] of each group, and an order of them.

    Attributes:
        exchanges: whether kept states are exchanged for others once it is known how many stay.
    """

    needs_data: ClassVar[bool] = True
    exchanges: ClassVar[bool] = False

    def __init__(self, layer: MatrixStateLayer, weigh: Weigh) -> None:
        super().__init__(layer, weigh)
        self.gramians = KeyQueryGramians(
            layer.groups * layer.sharing, layer.entries * layer.state_dim
        )

    @final
    def add(self, call: Call) -> None:
        self.gramians.update(call.signals)

    @final
    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.gramians.pool(total)

    @final
    def rank(self) -> Ranking:
        P, Q = self.gramians.pair
        by_group = (self.layer.groups, self.layer.sharing, *P.shape[1:])
        pairs = zip((P * Q).view(by_group), stacked(P, Q).view(by_group), strict=True)
        orders, grams = [], []
        for added, columns in pairs:
            M = pooled_terms(added, self.layer.entries)
            grams.append(pooled_columns(columns, self.layer.entries))
            orders.append(settled(self.layer, M) or self.terms(M, grams[-1]))
        ranking = by_energies(orders, factors_by_totals(self.layer, orders))
        return replace(ranking, columns=grams if self.exchanges else None)

    @abstractmethod
    def terms(self, M: Tensor, columns: Tensor) -> TermOrder:
        """The order of one group.

        Args:
            M: (N, N) P o Q, by state.
            columns: (N, N) Gram matrix of keys and queries stacked, by state.
        """
