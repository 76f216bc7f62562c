"""Images as sequences of pixels in row order.

Shapes: n images, S side, C channels, L = S * S steps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Images that are resized at a time; bounds the float32 copies.
CHUNK = 4096


def resize(images: Tensor, side: int | None) -> Tensor:
    """Resize (n, S, S, C) to (n, side, side, C), bilinear with anti-aliasing; dtype is kept."""
    if side is None or side == images.shape[1]:
        return images
    out = images.new_empty((len(images), side, side, images.shape[3]))
    for target, chunk in zip(torch.split(out, CHUNK), torch.split(images, CHUNK), strict=True):
        planes = chunk.permute(0, 3, 1, 2).float()
        small = functional.interpolate(
            planes, size=(side, side), mode="bilinear", antialias=True, align_corners=False
        )
        if not images.is_floating_point():
            small = small.round_().clamp_(0, torch.iinfo(images.dtype).max)
        target.copy_(small.permute(0, 2, 3, 1))
    return out


def as_sequences(images: Tensor) -> Tensor:
    """(n, S, S, C) -> (n, L, C): one pixel per step, row after row."""
    return images.flatten(1, 2)
