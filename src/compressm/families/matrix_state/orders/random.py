"""States drawn at random: what every other order has to beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.families.matrix_state.orders.base import (
    Call,
    Order,
    Ranking,
    by_scores,
    register_order,
)


@final
@register_order("random")
class Random(Order):
    """All states are worth the same."""

    label: ClassVar = "random"
    needs_data: ClassVar = False

    def add(self, call: Call) -> None:
        """Nothing is looked at."""

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Nothing is summed."""

    def rank(self) -> Ranking:
        shape = self.layer.groups, self.layer.state_dim
        return by_scores(torch.ones(shape, dtype=torch.float64, device="cpu"), shuffled=True)
