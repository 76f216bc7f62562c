"""A choice among the states of a layer, and new values of its parameters.

Shapes as in `numerics.matrix_state.signals`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.edits import Selection, Transport
from compressm.families.layout import Role


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The states that stay.

    Attributes:
        indices: (G, r) int64, ascending in each group.
        weights: (G, r) by which their contributions grow, or None where they stay as they are.
        squares: (2, G, N) mean squares of keys and queries where they were measured.
        covariance: (G, N, N) second moments of the queries.
        bases: V and W, (G, N, r) each, where r directions k~ = W'k, q~ = V'q stay, and `indices`
            tell them from others.
    """

    indices: Tensor
    weights: Tensor | None = None
    squares: Tensor | None = None
    covariance: Tensor | None = None
    bases: tuple[Tensor, Tensor] | None = None


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
    by = torch.full((len(value),), factor, dtype=torch.float64, device="cpu")
    return NewValue(value.cpu().double() * factor, Selection(rows, 0).weighted(by))


def divided(change: NewValue, by: float | Tensor) -> NewValue:
    """Chosen entries divided by what they will be multiplied with: a number, or one for each."""
    rule = change.transport
    assert isinstance(rule, Selection)
    by = torch.as_tensor(by, dtype=torch.float64, device="cpu").expand(rule.indices.shape)
    shape = [-1 if i == rule.dim else 1 for i in range(change.value.ndim)]
    value = change.value.double() / by.view(shape)
    return NewValue(value, rule.weighted(1 / by))
