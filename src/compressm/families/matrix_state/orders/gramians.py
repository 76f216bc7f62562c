"""Orders that look at the Gramians of keys and queries, and at no state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.orders.base import Call, Order, Ranking, by_energies
from compressm.numerics.matrix_state.contributions import Weigh
from compressm.numerics.matrix_state.gramians import KeyQueryGramians
from compressm.numerics.matrix_state.matching import TermOrder


class ByGramians(Order):
    """P = E[k k'] and Q = E[q q'] of each group, and an order of them."""

    needs_data: ClassVar[bool] = True

    def __init__(self, layer: MatrixStateLayer, weigh: Weigh) -> None:
        super().__init__(layer, weigh)
        self.gramians = KeyQueryGramians(layer.groups, layer.state_dim)

    @final
    def add(self, call: Call) -> None:
        self.gramians.update(call.signals)

    @final
    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.gramians.pool(total)

    @final
    def rank(self) -> Ranking:
        pairs = zip(*self.gramians.pair, strict=True)
        return by_energies([self.terms(P, Q) for P, Q in pairs])

    @abstractmethod
    def terms(self, P: Tensor, Q: Tensor) -> TermOrder:
        """The order of one group."""
