"""Layers that read a sequence both ways, as one system with two runs of outputs.

The dynamics and the inputs are shared, so that the states of such a layer are those of one system
on the sequence and on its reverse. The system has both readouts, C = 2 [C_1; C_2], and the layer
puts out the mean of what they say, y = (y_1 + reversed(y_2)) / 2: an error of the system bounds
that of the layer. Data are looked at as sequences and their reverses.

B batch, L length, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compressm.numerics import StateSpace

# (u, mask) of one call of a layer, see `LinearFamily.inputs`.
Inputs = Callable[[Sequence[Any], Mapping[str, Any]], tuple[Tensor, Tensor | None]]


def seen_by(system: StateSpace, inputs: Inputs) -> Inputs:
    """What the system is driven by: the inputs (B, L, H), or with their reverses (2B, L, H)."""
    if not system.both_ways:
        return inputs

    def doubled(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        u, mask = inputs(args, kwargs)
        return with_reverses(u), None if mask is None else with_reverses(mask)

    return doubled


def with_reverses(x: Tensor) -> Tensor:
    """(B, L, …) to (2B, L, …)."""
    return torch.cat([x, x.flip(1)])


def output_gradient(gradient: Tensor) -> Tensor:
    """dLoss/d[y_1; y_2] of sequences and reverses (2B, L, 2H), from dLoss/dy (B, L, H)."""
    nothing = torch.zeros_like(gradient)
    ways = (gradient, nothing), (nothing, gradient.flip(1))
    return torch.cat([torch.cat(way, -1) for way in ways]) / 2


def joined(y: Tensor) -> Tensor:
    """The layer's output (B, L, H) of the system's (2B, L, 2H)."""
    there, back = y.chunk(2)
    return (there.chunk(2, -1)[0] + back.chunk(2, -1)[1].flip(1)) / 2
