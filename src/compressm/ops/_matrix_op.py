"""`compressm::matrix_state` as PyTorch sees it: schema, fake tensors, autograd.

Shapes: B batch, L steps, H heads, K key dimensions, V value dimensions.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressm.ops import _matrix_chunks, _matrix_kernel
from compressm.ops._matrix_chunks import Chunks
from compressm.ops._matrix_kernel import EPS
from compressm.ops._operator import operator
from compressm.ops.build import kernels


def _cut(x: Tensor | None, size: int) -> Tensor | None:
    """(B, L, H, …) as (B, H, C, T, …), filled up with zeros: steps that do nothing."""
    if x is None:
        return None
    missing = -x.shape[1] % size
    x = functional.pad(x, (0, 0) * (x.ndim - 2) + (0, missing)).transpose(1, 2)
    return x.unflatten(2, (-1, size))  # type: ignore[no-any-return, no-untyped-call]


def _joined(x: Tensor, length: int) -> Tensor:
    """The inverse of `_cut`."""
    return x.flatten(2, 3).transpose(1, 2)[:, :length].contiguous()


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, size: int
) -> Chunks:
    cut = [_cut(x, size) for x in (q, k, v, log_decay, beta)]
    q_, k_, v_, g_, beta_ = cut
    assert q_ is not None
    assert k_ is not None
    assert v_ is not None
    return Chunks(q_, k_, v_, None if g_ is None else g_.cumsum(3), beta_)


def _count(length: int, size: int) -> int:
    return -(-length // size)


def _empty(
    v: Tensor, k: Tensor, beta: Tensor | None, initial: Tensor, size: int
) -> tuple[Tensor, ...]:
    """o, the last state, the states before the chunks, and what was written to them."""
    batch, length, heads, keys = k.shape
    return (
        v.new_empty(v.shape),
        initial.new_empty(initial.shape),
        v.new_empty(batch, heads, _count(length, size), keys, v.shape[-1]),
        v.new_empty(0 if beta is None else v.shape),
    )


def normalised(x: Tensor) -> Tensor:
    """x / (Σ x² + ε)^½ over the last axis."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)


def _through_norm(g: Tensor, x: Tensor) -> Tensor:
    """The gradient of x for that of its normalised form."""
    rate = torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)
    y = x * rate
    return rate * (g - y * (y * g).sum(-1, keepdim=True))


def _library(v: Tensor) -> ctypes.CDLL | None:
    return kernels() if v.device.type == "cpu" and v.numel() else None


@operator("compressm::matrix_state")
def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial: Tensor,
    size: int,
    unit: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `compressm.ops.gated_delta_rule`; the last two are for the backward pass.

    They are the states before the chunks, (B, H, C, K, V), and, where there is β, (B, L, H, V): the
    kernel keeps what a state missed of v, the chunks what was written to it, β times that.
    With `unit` above 0 keys and queries are brought to length one, and queries multiplied by it.
    """
    library = _library(v)
    if library is not None:
        made = _empty(v, k, beta, initial, size)
        results = dict(zip(("o", "last", "before", "missed"), made, strict=True))
        inputs = {"q": q, "k": k, "v": v, "decay": log_decay, "beta": beta, "initial": initial}
        _matrix_kernel.forward(library, {**inputs, **results}, size, unit)
        return tuple(results.values())  # type: ignore[return-value]
    if unit > 0:
        q, k = unit * normalised(q), normalised(k)
    x = _chunks(q, k, v, log_decay, beta, size)
    o, last, before, u = _matrix_chunks.forward(x, initial)
    kept = q.new_empty(0) if beta is None else _joined(u, q.shape[1])
    return _joined(o, q.shape[1]), last.clone(), before, kept


@scan.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial: Tensor,
    size: int,
    unit: float,
) -> tuple[Tensor, ...]:
    return _empty(v, k, beta, initial, size)


@operator("compressm::matrix_state_backward")
def scan_backward(
    g_o: Tensor,
    g_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    before: Tensor,
    u: Tensor,
    size: int,
    unit: float,
) -> list[Tensor]:
    """Gradients of q, k, v, log_decay, beta, initial; an empty tensor for what was not given."""
    library = _library(v)
    if library is not None:
        inputs = {"q": q, "k": k, "v": v, "decay": log_decay, "beta": beta}
        kept = {"before": before, "missed": u, "g_o": g_o, "g_last": g_last}
        return _matrix_kernel.backward(library, {**inputs, **kept}, size, unit)
    length, raw = q.shape[1], (q, k)
    if unit > 0:
        q, k = unit * normalised(q), normalised(k)
    x = _chunks(q, k, v, log_decay, beta, size)
    cut, written = _cut(g_o, size), _cut(v if beta is None else u, size)
    assert cut is not None
    assert written is not None
    g_q, g_k, g_v, g_c, g_beta, g_initial = _matrix_chunks.backward(x, before, written, cut, g_last)
    found = [_joined(g, length) for g in (g_q, g_k, g_v)]
    if unit > 0:
        found[:2] = [_through_norm(unit * found[0], raw[0]), _through_norm(found[1], raw[1])]
    # c is a cumulative sum, so its gradient adds up from the end of the chunk.
    decay = None if g_c is None else g_c.flip(3).cumsum(3).flip(3)
    for gradient in (decay, g_beta):
        found.append(q.new_empty(0) if gradient is None else _joined(gradient, length))
    return [*found, g_initial.clone()]


@scan_backward.register_fake
def _(
    g_o: Tensor,
    g_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    before: Tensor,
    u: Tensor,
    size: int,
    unit: float,
) -> list[Tensor]:
    given = [x.new_empty(x.shape) for x in (q, k, v)]
    given += [q.new_empty(0 if x is None else x.shape) for x in (log_decay, beta)]
    return [*given, g_last.new_empty(g_last.shape)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, log_decay, beta, _, ctx.size, ctx.unit = inputs
    ctx.save_for_backward(q, k, v, log_decay, beta, *output[2:])
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)  # the last two are as large as the outputs


def _backward(
    ctx: Any, g_o: Tensor | None, g_last: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, log_decay, beta, before, u = ctx.saved_tensors
    g_o = v.new_zeros(v.shape) if g_o is None else g_o
    g_last = before.new_zeros(before[:, :, 0].shape) if g_last is None else g_last
    g_q, g_k, g_v, g_decay, g_beta, g_initial = scan_backward(
        g_o, g_last, q, k, v, log_decay, beta, before, u, ctx.size, ctx.unit
    )
    g_decay = None if log_decay is None else g_decay
    return g_q, g_k, g_v, g_decay, None if beta is None else g_beta, g_initial, None, None


scan.register_autograd(_backward, setup_context=_setup)
