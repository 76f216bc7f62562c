"""Products of queries and keys inside chunks, each pair of steps with the decay between them.

Shapes: … any leading axes, T steps of a chunk, K key dimensions. `c` is the inclusive cumulative
sum of the logarithms of the decays inside the chunk, never positive: (…, T) for one decay per head,
(…, T, K) for one per key dimension, None for none.

Exponents of c_t - c_s are taken for s <= t only, so nothing overflows however strong the decay is.
For a decay per key dimension the steps are cut into blocks: between blocks both factors are
decays up to, and from, the beginning of the later block; inside a block every pair has its own
(Yang et al. 2023, arXiv 2312.06635, section 4.3).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Pairs inside a block cost K exponents each, pairs between blocks none.
_BLOCK = 16


def decayed_products(x: Tensor, k: Tensor, c: Tensor | None) -> Tensor:
    """A[t, s] = Σ_n x_t[n] k_s[n] exp(c_t[n] - c_s[n]) for s <= t, else 0; (…, T, T)."""
    if c is None or c.ndim < x.ndim:
        return (x @ k.mT) * _scalar(x, c)
    out = x.new_zeros(*x.shape[:-1], k.shape[-2])
    for rows, ahead, here, there, before in _blocks(c):
        if before is not None:
            out[..., rows, ahead] = (x[..., rows, :] * here) @ (k[..., ahead, :] * before).mT
        pairs = x[..., rows, None, :] * there * k[..., None, rows, :]
        out[..., rows, rows] = pairs.sum(-1)
    return out


def decayed_keys(A: Tensor, k: Tensor, c: Tensor | None) -> Tensor:
    """out_t[n] = Σ_{s <= t} A[t, s] k_s[n] exp(c_t[n] - c_s[n]): the gradient of x."""
    if c is None or c.ndim < k.ndim:
        return (A * _scalar(k, c)) @ k
    out = torch.empty_like(k)
    for rows, ahead, here, there, before in _blocks(c):
        value = (A[..., rows, rows, None] * there * k[..., None, rows, :]).sum(-2)
        if before is not None:
            value = value + (A[..., rows, ahead] @ (k[..., ahead, :] * before)) * here
        out[..., rows, :] = value
    return out


def decayed_queries(A: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
    """out_s[n] = Σ_{t >= s} A[t, s] x_t[n] exp(c_t[n] - c_s[n]): the gradient of k."""
    if c is None or c.ndim < x.ndim:
        return (A * _scalar(x, c)).mT @ x
    out = torch.zeros_like(x)
    for rows, ahead, here, there, before in _blocks(c):
        out[..., rows, :] += (A[..., rows, rows, None] * there * x[..., rows, None, :]).sum(-3)
        if before is not None:
            out[..., ahead, :] += (A[..., rows, ahead].mT @ (x[..., rows, :] * here)) * before
    return out


def _scalar(x: Tensor, c: Tensor | None) -> Tensor:
    """(…, T, T): the decay between two steps, 0 above the diagonal."""
    steps = x.shape[-2]
    lower = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
    if c is None:
        return lower.to(x.dtype)
    between = c[..., :, None] - c[..., None, :]
    return between.masked_fill(~lower, -torch.inf).exp()


def _blocks(c: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor | None]]:
    """For each block: its steps, those before it, and the decays that belong to them.

    From its beginning to each of its steps (…, t, K), between its steps (…, t, t, K), and from
    each earlier step to its beginning (…, s, K), None for the first block.
    """
    steps = c.shape[-2]
    for first in range(0, steps, _BLOCK):
        rows, ahead = slice(first, min(first + _BLOCK, steps)), slice(0, first)
        own = c[..., rows, :]
        size = own.shape[-2]
        lower = torch.ones(size, size, dtype=torch.bool, device=c.device).tril()[..., None]
        between = own[..., :, None, :] - own[..., None, :, :]
        there = between.masked_fill(~lower, -torch.inf).exp()
        if first == 0:
            yield rows, ahead, own.exp(), there, None
        else:
            start = c[..., first - 1 : first, :]
            yield rows, ahead, (own - start).exp(), there, (start - c[..., ahead, :]).exp()
