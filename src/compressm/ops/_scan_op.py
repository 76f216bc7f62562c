"""`compressm::selective_scan` as PyTorch sees it: schema, fake tensors, autograd.

Shapes: B batch, D channels, L steps, N states, G groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressm.ops import _scan_kernel, _scan_torch
from compressm.ops.build import kernels

_NAMES = ("u", "delta", "A", "B", "C", "D", "z", "bias", "initial")


def like(u: Tensor) -> Tensor:
    """Empty, of u's shape, channels or steps innermost as in u."""
    batch, channels, length = u.shape
    if channels > 1 and u.stride(1) == 1:
        return u.new_empty(batch, length, channels).transpose(1, 2)
    return u.new_empty(batch, channels, length)


def _empty(u: Tensor, A: Tensor, keep: bool, gated: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, last state, out before the gate, states before the chunks: the last two if kept."""
    batch, channels, length = u.shape
    states = A.shape[1]
    chunks = (length + _scan_torch.CHUNK - 1) // _scan_torch.CHUNK
    return (
        like(u),
        u.new_empty(batch, channels, states),
        like(u) if keep and gated else u.new_empty(0),
        u.new_empty(batch, chunks, states, channels) if keep else u.new_empty(0),
    )


@torch.library.custom_op("compressm::selective_scan", mutates_args=())
def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    initial: Tensor | None,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `compressm.ops.selective_scan`; `keep` what the backward pass needs."""
    inputs = dict(zip(_NAMES, (u, delta, A, B, C, D, z, bias, initial), strict=True))
    results = _empty(u, A, keep, z is not None)
    library = kernels() if u.device.type == "cpu" else None
    if library is not None and u.numel() > 0:
        outputs = dict(zip(("out", "last", "ungated", "checkpoints"), results, strict=True))
        given = {name: x if x.numel() else None for name, x in outputs.items()}
        _scan_kernel.forward(library, inputs, given, softplus)
        return results
    gated, plain, last, kept = _scan_torch.forward(
        u, delta, A, B, C, D, z, bias, initial, softplus, keep
    )
    for result, value in zip(results, (gated, last, plain, kept), strict=True):
        if result.numel():
            result.copy_(value)
    return results


@scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    initial: Tensor | None,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty(u, A, keep, z is not None)


def _empty_gradients(
    u: Tensor,
    A: Tensor,
    B: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    initial: Tensor | None,
) -> list[Tensor]:
    batch, channels, _ = u.shape
    none = u.new_empty(0)
    shared = (batch, B.shape[1], B.shape[3], B.shape[2])
    return [
        like(u),
        like(u),
        u.new_empty(A.shape),
        u.new_empty(shared).transpose(2, 3),
        u.new_empty(shared).transpose(2, 3),
        none if D is None else u.new_empty(channels),
        u.new_empty(0) if z is None else like(u),
        u.new_empty(0) if bias is None else u.new_empty(channels),
        u.new_empty(0) if initial is None else u.new_empty(batch, *A.shape),
    ]


@torch.library.custom_op("compressm::selective_scan_backward", mutates_args=())
def scan_backward(
    g_out: Tensor,
    g_last: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    initial: Tensor | None,
    ungated: Tensor,
    checkpoints: Tensor,
    softplus: bool,
) -> list[Tensor]:
    """Gradients in the order of the arguments; an empty tensor for what was not given."""
    results = _empty_gradients(u, A, B, D, z, bias, initial)
    library = kernels() if u.device.type == "cpu" else None
    if library is not None and u.numel() > 0:
        tensors = dict(zip(_NAMES, (u, delta, A, B, C, D, z, bias, initial), strict=True))
        tensors |= {"g_out": g_out, "g_last": g_last, "checkpoints": checkpoints}
        tensors["ungated"] = ungated if z is not None else None
        grads = _scan_kernel.backward(library, tensors, results[0], softplus)
    else:
        grads = _scan_torch.backward(
            g_out, g_last, u, delta, A, B, C, D, z, bias, ungated, checkpoints, softplus
        )
    filled = []
    for name, result in zip(_NAMES, results, strict=True):
        gradient = grads.get(name)
        if gradient is None or not result.numel():
            filled.append(result)
        elif gradient.stride() == result.stride():
            filled.append(gradient)
        else:
            filled.append(result.copy_(gradient))
    return filled


@scan_backward.register_fake
def _(
    g_out: Tensor,
    g_last: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    initial: Tensor | None,
    ungated: Tensor,
    checkpoints: Tensor,
    softplus: bool,
) -> list[Tensor]:
    return _empty_gradients(u, A, B, D, z, bias, initial)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.softplus, _keep = inputs
    ctx.save_for_backward(*tensors, output[2], output[3])
    ctx.mark_non_differentiable(output[2], output[3])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, ungated, checkpoints = ctx.saved_tensors
    g_out, g_last = grads[0], grads[1]
    if g_out is None:
        g_out = torch.zeros_like(tensors[0])
    if g_last is not None:
        g_last = g_last.contiguous()
    found = scan_backward(g_out, g_last, *tensors, ungated, checkpoints, ctx.softplus)
    given = (None if x is None else g for x, g in zip(tensors, found, strict=True))
    return (*given, None, None)


scan.register_autograd(_backward, setup_context=_setup)
