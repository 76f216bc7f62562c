"""Directions of balanced keys and queries, for layers in which every basis is as good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.orders.base import (
    Call,
    Order,
    Ranking,
    by_energies,
    register_order,
)
from compressm.families.matrix_state.orders.norms import factors_by_totals
from compressm.numerics.matrix_state.contributions import Weigh
from compressm.numerics.matrix_state.gramians import KeyQueryGramians, balanced_bases
from compressm.numerics.matrix_state.matching import ranked_terms


@final
@register_order("balanced")
class Balanced(Order):
    """Balanced truncation of P = E[k k'] and Q = E[q q'] in each group.

    In balanced coordinates both are diag(sigma), so dropping direction i costs about sigma_i^2 of
    the output's energy (1'(P o Q)1 of what is dropped).
    """

    label: ClassVar = "balanced keys and queries"
    needs_data: ClassVar[bool] = True
    mixes: ClassVar[bool] = True

    def __init__(self, layer: MatrixStateLayer, weigh: Weigh) -> None:
        super().__init__(layer, weigh)
        self.gramians = KeyQueryGramians(layer.groups, layer.state_dim)

    def add(self, call: Call) -> None:
        self.gramians.update(call.signals)

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.gramians.pool(total)

    def rank(self) -> Ranking:
        V, W, sigma = balanced_bases(*self.gramians.pair)
        energies = sigma.square()
        orders = [ranked_terms(torch.diag(e), e, len(e)) for e in energies]
        factors = factors_by_totals(self.layer, orders)
        return replace(by_energies(orders, factors), bases=(V, W))
