"""What an order of the states of a layer is, and the registry of orders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.numerics.matrix_state.contributions import ContributionMoments, Weigh
from compressm.numerics.matrix_state.matching import TermOrder, ranked_terms
from compressm.numerics.matrix_state.signals import Signals
from compressm.numerics.matrix_state.spacing import spaced_scores


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """What an order sees of one call of the layer.

    Attributes:
        signals: all of them.
        steps: (L,) bool, the time steps to look at, where looking is dear.
        out_weight: W (H, G J V).
        slope: dLoss/dy of the recurrence, (B, L, G, J, V), where it was asked for.
    """

    signals: Signals
    steps: Tensor
    out_weight: Tensor
    slope: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The states of each group in an order.

    Attributes:
        orders: one for each group.
        values: (N,) what the r-th state of every group adds, summed over groups, before it is
            made non-increasing; of an order without energies, scores.
        evidence: the contributions that it rests on, if it does.
        shuffled: whether any order is as good, and the states are drawn.
        bases: V and W, (G, N, N) each, where directions k~ = W'k, q~ = V'q are ranked in place of
            states.
        columns: Gram matrix (N, N) of each group in which kept states are exchanged for others,
            once it is known how many stay.
    """

    orders: Sequence[TermOrder]
    values: Tensor
    evidence: ContributionMoments | None = None
    shuffled: bool = False
    bases: tuple[Tensor, Tensor] | None = None
    columns: Sequence[Tensor] | None = None


class Order(ABC):
    """Ranks the states of one layer, from what it was shown.

    Args:
        layer: as it was read.
        weigh: where contributions are compared, for orders that look at them.

    Attributes:
        label: in a few words, for tables.
        needs_data: whether it has to be shown calls of the layer.
        mixes: whether it ranks directions, which not every layer can store.
    """

    label: ClassVar[str]
    needs_data: ClassVar[bool]
    mixes: ClassVar[bool] = False

    def __init__(self, layer: MatrixStateLayer, weigh: Weigh) -> None:
        self.layer, self.weigh = layer, weigh

    @abstractmethod
    def add(self, call: Call) -> None:
        """See one call."""

    @abstractmethod
    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""

    @abstractmethod
    def rank(self) -> Ranking:
        """The order, once all calls have been seen."""


def settled(layer: MatrixStateLayer, M: Tensor) -> TermOrder | None:
    """The order of a group by its M (N, N), where the layer leaves no choice; else None."""
    return ranked_terms(M, spaced_scores(len(M)), len(M)) if layer.spaced else None


def by_energies(
    orders: Sequence[TermOrder],
    factors: Tensor | None = None,
    evidence: ContributionMoments | None = None,
) -> Ranking:
    """The ranking whose values are what each state takes from the energy that is left.

    Args:
        orders: one for each group.
        factors: (G,) by which the energies of groups count, see `norms`; None: all alike.
        evidence: see `Ranking`.
    """
    by_group = torch.stack([order.residual for order in orders])
    totals = by_group.new_tensor([order.total for order in orders])
    if factors is not None:
        by_group, totals = factors[:, None] * by_group, factors * totals
    left = by_group.sum(0)
    # With all states there is no error, whatever rounding says.
    left[-1] = 0.0
    total = totals.sum(0, keepdim=True)
    return Ranking(orders=orders, values=-torch.diff(left, prepend=total), evidence=evidence)


def by_scores(scores: Tensor, *, shuffled: bool = False) -> Ranking:
    """The ranking of scores (G, N), which are its values too."""
    N = scores.shape[1]
    M = torch.eye(N, dtype=torch.float64, device="cpu")
    values = torch.stack([row.sort(descending=True).values for row in scores]).sum(0)
    orders = [ranked_terms(M, row, N) for row in scores]
    return Ranking(orders=orders, values=values, shuffled=shuffled)


def unseen(layer: MatrixStateLayer) -> Ranking:
    """Of a layer that nothing was seen of: the states as they come, at nothing."""
    return by_scores(torch.zeros(layer.groups, layer.state_dim, dtype=torch.float64, device="cpu"))


ORDERS: dict[str, type[Order]] = {}
O = TypeVar("O", bound=type[Order])  # noqa: E741


def register_order(name: str) -> Callable[[O], O]:
    """Make an order known to methods by name."""

    def register(order: O) -> O:
        if name in ORDERS:
            raise InputError(f"order: {name!r} is registered already, by {ORDERS[name].__name__}")
        ORDERS[name] = order
        return order

    return register
