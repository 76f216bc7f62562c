"""A batch without sequences: nothing is computed, and gradients are zero.

A process whose share of the data is empty has to give every parameter a gradient, as those do that
it is averaged with.
"""

from __future__ import annotations

from torch import Tensor


def of_no_sequence(u: Tensor, *operands: Tensor | None) -> Tensor:
    """The output, of the shape and type of u (0, L, H), with a graph to all operands."""
    y = u
    for operand in operands:
        if operand is not None:
            y = y + operand.flatten()[:0].sum()
    return y
