"""What a recurrence of a matrix-valued state is.

Shapes as in `numerics.matrix_state.signals`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.numerics.matrix_state.signals import Signals
from compressm.numerics.matrix_state.states import output_of


class Recurrence(ABC):
    """How signals become an output; no parameters, no layer.

    Attributes:
        any_basis: whether every change of basis over the states commutes with it, k -> T^-1 k and
            q -> T' q; else only their order is free, and states can be selected.
        additive: whether what states add to the output does not depend on which others there are,
            so that what a choice leaves out is an error, and not a ranking.
    """

    any_basis: ClassVar[bool]
    additive: ClassVar[bool]

    @abstractmethod
    def scan(self, s: Signals) -> Tensor:
        """y (B, L, G, J, V), by the operators for training: fast and differentiable."""

    @final
    def output(self, s: Signals) -> Tensor:
        """The same from its states, one step after the other."""
        return output_of(s)


def by_head(s: Signals) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys (B, L, G J, N) and values (B, L, G J, V), as operators take them."""
    heads = s.values.shape[3]
    q, k = (t.repeat_interleave(heads, 2) for t in (s.queries, s.keys))
    return q, k, s.written.flatten(2, 3)


def head_decays(s: Signals) -> Tensor | None:
    """log a_t for every head, (B, L, G J), or (B, L, G J, N) where it differs between states."""
    decay = s.log_decay(slice(None))
    if decay is None:
        return None
    heads, states = s.values.shape[3], decay.shape[-1]
    decay = decay.transpose(0, 1).expand(-1, -1, -1, heads, states).flatten(2, 3)
    return decay[..., 0] if states == 1 else decay


def unfold(y: Tensor, s: Signals) -> Tensor:
    """(B, L, G J, V) as (B, L, G, J, V)."""
    return torch.reshape(y, s.values.shape)
