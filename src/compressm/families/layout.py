"""Where the states of a layer are in its parameters: what a size means, without any weights.

N states before, r after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class StateAxis:
    """The axis of one parameter that has entries for every state.

    Along it lie `lead` entries of something else, then `blocks` runs of one entry for each state,
    then what is left.

    Attributes:
        dim: the axis.
        blocks: entries that one state has, in runs of N.
        lead: entries before the first run.
    """

    dim: int
    blocks: int = 1
    lead: int = 0

    def shape(self, present: torch.Size, states: int, wanted: int) -> torch.Size:
        """The shape with `wanted` states of a parameter that has `states` now."""
        sizes = list(present)
        sizes[self.dim] += self.blocks * (wanted - states)
        return torch.Size(sizes)

    def states(self, present: torch.Size, states: int, other: torch.Size) -> int | None:
        """How many states a parameter of another shape has; None where it fits no number."""
        if len(other) != len(present):
            return None
        more, rest = divmod(other[self.dim] - present[self.dim], self.blocks)
        found = states + more
        fits = rest == 0 and found >= 1 and self.shape(present, states, found) == other
        return found if fits else None

    def first(self, value: Tensor, states: int, wanted: int) -> Tensor:
        """The values of the first `wanted` states, where there are `states`; again from the first
        one on where that is more."""
        length = value.shape[self.dim]
        kept = torch.arange(wanted, device=value.device) % states
        runs = [self.lead + block * states + kept for block in range(self.blocks)]
        index = torch.arange(length, device=value.device)
        rest = index[self.lead + self.blocks * states :]
        return value.index_select(self.dim, torch.cat([index[: self.lead], *runs, rest]))


Layout = Mapping[str, StateAxis]
