"""Norms of the weights that make keys and queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.orders.base import (
    Call,
    Order,
    Ranking,
    by_scores,
    register_order,
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
        return by_scores(self.layer.magnitudes().detach().cpu().double())
