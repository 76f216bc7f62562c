"""Which time steps and sequences of a batch are looked at, whatever order they come in.

Shapes: B sequences, L time steps, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = (5**0.5 - 1) / 2


def sampled_steps(keys: Tensor, length: int, keep: int, *, seed: int = 0) -> Tensor:
    """`keep` time steps of each sequence, (B, L) bool: one in each of as many equal parts.

    Not strided, because images as sequences have a period: the place in each part is random, and
    moved by the golden section from one sequence to the next, so that all sequences together reach
    all places evenly. Sequences are told apart by their keys, not by their places in the batch.

    Args:
        keys: (B,), one number for each sequence; see `content_keys`.
        length: L.
        keep: of them; not more than L.
        seed: of the random places.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    start = torch.rand(keep, generator=generator, dtype=torch.float64, device="cpu")
    rank = torch.empty(len(keys), dtype=torch.float64, device="cpu")
    rank[keys.cpu().argsort()] = torch.arange(len(keys), dtype=torch.float64, device="cpu")
    place = (start + _GOLDEN * rank[:, None]) % 1
    parts = torch.arange(keep, dtype=torch.float64, device="cpu")
    steps = ((parts + place) * (length / keep)).long().clamp_max(length - 1)
    return torch.zeros(len(keys), length, dtype=torch.bool, device="cpu").scatter_(1, steps, True)


def content_keys(u: Tensor, mask: Tensor | None = None) -> Tensor:
    """One number (B,) for each sequence, from what is in it: a fixed random projection.

    Rounding moves it by as little as it moves the sequence, so the order of the keys stays where
    sequences travel in another order, or in other batches.

    Args:
        u: (B, L, F).
        mask: (B, L), what counts.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    length, features = u.shape[1:]
    over_time = torch.randn(length, generator=generator, dtype=torch.float64, device="cpu")
    over_features = torch.randn(features, generator=generator, dtype=torch.float64, device="cpu")
    dtype = torch.promote_types(u.dtype, torch.float32)
    mixed = u.detach().to(dtype) @ over_features.to(device=u.device, dtype=dtype)
    if mask is not None:
        mixed = mixed.masked_fill(mask.to(u.device) == 0, 0)
    return mixed.cpu().double() @ over_time


def sampled_sequences(keys: Tensor, keep: int) -> Tensor:
    """`keep` of the sequences (B,), evenly over their keys: indices, in the order of the keys."""
    batch = len(keys)
    places = (torch.arange(keep, device="cpu").double() + 0.5) * (batch / keep)
    return keys.cpu().argsort()[places.long()]
