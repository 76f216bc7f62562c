"""From the features of all steps to those of a sequence.

B batch, L length, H width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from compressm.errors import InputError

Pooling = Literal["mean", "last", "none"]


def check_pooling(pooling: str, *, allowed: tuple[str, ...] = ("mean", "last", "none")) -> None:
    """Refuse a name that `pool` does not know.

    Raises:
        InputError: with the allowed names.
    """
    if pooling not in allowed:
        raise InputError(f"pooling: expected one of {', '.join(allowed)}, got {pooling!r}")


def pool(x: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """Mean over the real steps, the last real step, or all steps as they are.

    Args:
        x: (B, L, H).
        mask: (B, L), true at real steps; a sequence without any pools to zero (mean) or to its
            first step (last).
        pooling: "mean", "last" or "none".

    Returns:
        (B, H), or (B, L, H) for "none".
    """
    if pooling == "none":
        return x
    if pooling == "mean":
        if mask is None:
            return x.mean(dim=1)
        weights = mask.to(x.dtype)[..., None]
        return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
    if mask is None:
        return x[:, -1]
    steps = torch.arange(x.shape[1], device=x.device)
    last = torch.where(mask.bool(), steps, 0).amax(dim=1)
    return x[torch.arange(x.shape[0], device=x.device), last]


class Pooled(NamedTuple):
    """What pooling carries from step to step.

    In float64: after some ten million steps what one of them adds to a mean, or to a sum, is less
    than the digits of float32. What is small would be lost then, while what is large still counts.
    """

    mean: Tensor  # (B, H), float64, of the features of all steps so far
    steps: Tensor  # (B, 1), int64


def start_pooling(like: Tensor, batch: int, pooling: Pooling) -> Pooled | tuple[()]:
    """Before the first step; nothing where nothing is carried. `like` ends in H."""
    if pooling != "mean":
        return ()
    steps = torch.zeros(batch, 1, dtype=torch.int64, device=like.device)
    # Apple's devices have no float64.
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    return Pooled(like.new_zeros(batch, like.shape[-1], dtype=dtype), steps)


def pool_step(x: Tensor, before: Pooled | tuple[()]) -> tuple[Tensor, Pooled | tuple[()]]:
    """Features of one step (B, H) -> those of the sequence so far, and what is carried on."""
    if not isinstance(before, Pooled):
        return x, ()
    steps = before.steps + 1
    mean = before.mean + (x - before.mean) / steps
    return mean.to(x.dtype), Pooled(mean, steps)
