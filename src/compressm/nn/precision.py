"""Dynamics of layers whose parameters have half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float32 where they have less, for all that makes or follows states.

    There are no complex numbers of bfloat16, and its 8 bits would put poles onto the unit circle
    and end what a long memory still adds.
    """
    return tuple(t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors)
