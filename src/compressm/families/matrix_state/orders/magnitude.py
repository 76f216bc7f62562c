"""Norms of the weights that make keys and queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.orders.base import (
    Call,
    Order,
    Ranking,
    by_energies,
    by_scores,
    register_order,
    settled,
)


@final
@register_order("magnitude")
class Magnitude(Order):
    """Looks at no data."""

    label: ClassVar = "size of the weights"
    needs_data: ClassVar = False

    def add(self, call: Call) -> None:
        """Nothing is looked at."""

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Nothing is summed."""

    def rank(self) -> Ranking:
        sizes = self.layer.magnitudes().detach().cpu().double()
        orders = [settled(self.layer, row.square().diag()) for row in sizes]
        found = [order for order in orders if order is not None]
        return by_energies(found) if found else by_scores(sizes)
