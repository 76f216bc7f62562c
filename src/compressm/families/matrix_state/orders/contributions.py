"""Orders that look at what states contribute to the output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
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
from compressm.families.matrix_state.orders.norms import NormPowers
from compressm.numerics.matrix_state.averaged import AveragedDynamics
from compressm.numerics.matrix_state.contributions import ContributionMoments, Weigh
from compressm.numerics.matrix_state.matching import TermOrder


class ByContributions(Order):
    """Gram matrices M of the contributions of each group, and an order of it."""

    needs_data: ClassVar[bool] = True
    averages: AveragedDynamics | None = None

    def __init__(self, layer: MatrixStateLayer, weigh: Weigh) -> None:
        super().__init__(layer, weigh)
        self.moments = ContributionMoments(
            layer.blocks,
            layer.state_dim,
            weigh,
            entries=layer.entries,
            groups=layer.groups * layer.sharing,
        )
        self.powers = NormPowers(layer)

    @final
    def add(self, call: Call) -> None:
        self.moments.update(
            call.signals, call.steps, out_weight=call.out_weight, gradient=call.slope
        )
        self.powers.add(call.signals)
        if self.averages is not None:
            self.averages.update(call.signals)

    @final
    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.moments.pool(total)
        self.powers.pool(total)
        if self.averages is not None:
            self.averages.pool(total)

    @final
    def rank(self) -> Ranking:
        blocks = self.moments.moment
        by_group = blocks.view(self.layer.groups, -1, *blocks.shape[1:]).sum(1)
        orders = [
            settled(self.layer, M) or self.terms(M, group) for group, M in enumerate(by_group)
        ]
        return by_energies(orders, self.powers.factors(), self.moments)

    @abstractmethod
    def terms(self, M: Tensor, group: int) -> TermOrder:
        """The order of one group by its M (N, N)."""
