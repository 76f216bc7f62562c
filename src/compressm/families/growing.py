"""What a family whose layers can grow must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from compressm.edits import Edit
from compressm.errors import InputError
from compressm.families.base import Site


class Growing(ABC):
    """For adapters: new states that change nothing that the layer does, and train."""

    @abstractmethod
    def grows_to(self, module: nn.Module, states: int) -> int:
        """The fewest states, from `states` on, that the layer can have, were it to grow.

        Raises:
            InputError: it cannot, or not so that nothing changes; the message says why.
        """

    @abstractmethod
    def grown(self, module: nn.Module, states: int, generator: torch.Generator) -> Sequence[Edit]:
        """The edits that give the layer new states, up to `states`, and change nothing it does.

        Something of each new state has a gradient that is not zero, so that it trains.

        Args:
            module: the layer; it is only looked at.
            states: more than it has, as `grows_to` says.
            generator: of all that is drawn.
        """


def growing(site: Site) -> Growing:
    """The adapter of a layer, as one that lets it grow.

    Raises:
        InputError: it does not.
    """
    if not isinstance(site.adapter, Growing):
        raise InputError(
            f"{site.adapter.family} layers cannot grow: their adapter does not say how new states "
            "begin"
        )
    return site.adapter
