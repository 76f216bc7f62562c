"""Optimizer state that keeps its first entries while the basis changes, for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from compressm.edits import Transport


@final
class Leading(Transport):
    """The first entries of every tensor, in the old basis, whatever the new one is.

    For comparison: the entries belong to other directions than those that the parameters now have.

    Args:
        shapes: of the new parameters of the group, in their order.

    Source: the training loop of CompreSSM (arXiv 2510.02823).
    """

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        self._shapes = tuple(shapes)

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pairs = zip(tensors, self._shapes, strict=True)
        return tuple(t[tuple(slice(n) for n in shape)].contiguous() for t, shape in pairs)

    def second(
        self, tensors: tuple[Tensor, ...], means: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...]:
        return self.first(tensors)

    def kept(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None

    @property
    def exact(self) -> bool:
        return False

    @property
    def separate(self) -> bool:
        return False
