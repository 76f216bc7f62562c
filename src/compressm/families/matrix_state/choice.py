"""A choice among the states of a layer, and new values of its parameters.

Shapes as in `numerics.matrix_state.signals`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressm.edits import Selection, Transport
from compressm.families.layout import Role
from compressm.numerics.matrix_state.matching import residual_energy


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The states that stay.

    Attributes:
        indices: (G, r) int64, ascending in each group.
        weights: (G, r) by which their contributions grow, or None where they stay as they are.
        squares: (2, G, N) mean squares of keys and queries where they were measured.
        covariance: (G, N, N) second moments of the queries.
        moments: (K, N, N) Gram matrices of the contributions where they were measured.
        bases: V and W, (G, N, r) each, where r directions k~ = W'k, q~ = V'q stay, and `indices`
            tell them from others.
    """

    indices: Tensor
    weights: Tensor | None = None
    squares: Tensor | None = None
    covariance: Tensor | None = None
    moments: Tensor | None = None
    bases: tuple[Tensor, Tensor] | None = None

    @property
    def error(self) -> float | None:
        """Relative error of the contributions where they are compared."""
        if self.moments is None:
            return None
        groups, ones = len(self.indices), torch.ones_like(self.indices, dtype=torch.float64)
        by_group = self.moments.view(groups, -1, *self.moments.shape[1:]).sum(1)
        weights = ones if self.weights is None else self.weights
        triples = zip(by_group, self.indices, weights, strict=True)
        left, whole = sum(residual_energy(*t) for t in triples), float(self.moments.sum())
        return (left / whole) ** 0.5 if whole > 0 else None


@dataclass(frozen=True, eq=False)
class NewValue:
    """The new value of one parameter, and how its optimizer state follows."""

    value: Tensor
    transport: Transport


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a parameter that make keys or queries, (G N,) of them."""

    name: str
    role: Role
    at: Tensor


def scaled(value: Tensor, factor: float) -> NewValue:
    """A whole parameter times a constant, where its gradient shrinks by the same."""
    rows = torch.arange(len(value), device="cpu")
    inverse = torch.full((len(value),), 1 / factor, dtype=torch.float64, device="cpu")
    return NewValue(value.cpu().double() * factor, Selection(rows, 0, inverse))


def shrunk(change: NewValue, factor: float) -> NewValue:
    """Chosen entries divided by a constant that what they are multiplied with grows by."""
    rule = change.transport
    assert isinstance(rule, Selection)
    before = torch.ones(rule.indices.shape, dtype=torch.float64, device="cpu")
    factors = factor * (before if rule.factors is None else rule.factors)
    return NewValue(change.value.double() / factor, replace(rule, factors=factors))
