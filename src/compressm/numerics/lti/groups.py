"""Groups of a layer as a leading axis: systems side by side that share nothing but their sizes.

A tensor has a group axis in front, or none: then it is one system, as in `torch.linalg`. Inputs
and outputs of a layer with groups are G runs of H channels, one run for each group.

Shapes: G groups, n entries, r picks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def take(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    """Entries `indices` of `x` along `dim` (-1 or -2), (r,) for all, or (G, r): each group its own.

    With a group axis in `indices`, `x` has one too.
    """
    if indices.ndim == 1:
        return x[..., indices] if dim == -1 else x[..., indices, :]
    shape = [len(indices), *[1] * (x.ndim - 1)]
    shape[dim] = indices.shape[1]
    wanted = list(x.shape)
    wanted[dim] = indices.shape[1]
    return x.gather(dim, indices.view(shape).expand(wanted))


def diagonal(P: Tensor) -> Tensor:
    """The diagonal of each matrix, (..., n, n) to (..., n)."""
    return P.diagonal(dim1=-2, dim2=-1)


def leading(sizes: Tensor, length: int) -> Tensor:
    """Which of `length` entries are among the first `sizes` (...): (..., length) bool."""
    return torch.arange(length, device="cpu") < sizes[..., None]


def split_channels(u: Tensor, groups: int | None) -> Tensor:
    """(..., G H) to (..., G, H); as it is where there is no group axis (None)."""
    return u if groups is None else torch.unflatten(u, -1, (groups, -1))


def join_channels(y: Tensor, groups: int | None) -> Tensor:
    """The inverse of `split_channels`."""
    return y if groups is None else y.flatten(-2)
