"""`narrow_mix`: what follows the recurrence in a narrow block, in one pass on a CPU.

Elementwise steps on a few channels take no arithmetic to speak of and a pass through memory each;
here a row is a vector or two, and all steps happen while it is in registers.
Shapes: R rows (any leading axes), H width. The C side is `csrc/mix.h`.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from compressm.ops._diagonal_op import available
from compressm.ops.build import kernels

_I, _P, _D = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_WIDEST = 32  # beyond it matrix products are the faster way
_TASKS = 16  # partial sums of gradients: as many on any number of threads
_BYTES = 64  # of the widest vectors
_LEVELS = 1 << 16
_SIZES = ("rows", "width", "padded", "tasks", "threads", "dropped")
_POINTERS = ("z", "x", "into", "out", "bias", "inner", "outer", "y", "g_y")


class _Arguments(ctypes.Structure):
    """`MixArgs`: the fields in the order of the C++ struct."""

    _fields_ = [
        *((name, _I) for name in _SIZES),
        ("scale", _D),
        *((name, _P) for name in (*_POINTERS, "g_z", "g_weight", "g_bias")),
    ]


def suits_narrow_mix(z: Tensor, x: Tensor, weight: Tensor) -> bool:
    """Whether `narrow_mix` is the way: few channels of one type, on a CPU with a C++ compiler."""
    return (
        z.device.type == "cpu"
        and 0 < z.shape[-1] <= _WIDEST
        and z.numel() > 0
        and z.dtype == x.dtype == weight.dtype
        and z.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()  # other machines do not have our operator
        and available()
    )


def narrow_mix(
    z: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    inner: Tensor | None = None,
    outer: Tensor | None = None,
    dropped: int = 0,
) -> Tensor:
    """`y = x + drop(GLU(W drop(gelu(z)) + b))`.

    `drop` puts zero where 16 random bits, as a signed number, are below dropped - 2^15, and
    multiplies the rest by what keeps the expectation.

    Args:
        z: (…, H).
        x: the residual, (…, H).
        weight: W (2H, H), the rows of the values before those of the gates.
        bias: b (2H,).
        inner: int16 (…, H), the bits of the first drop; None: nothing is dropped.
        outer: those of the second.
        dropped: how many of 2^16 values of the bits drop an entry.

    Returns:
        y (…, H).
    """
    y: Tensor = _mix(z, x, weight, bias, inner, outer, dropped)
    return y


def _sizes(z: Tensor, dropped: int) -> dict[str, Any]:
    rows, lanes = z.numel() // z.shape[-1], _BYTES // z.itemsize
    return {
        "rows": rows,
        "width": z.shape[-1],
        "padded": lanes << max(0, math.ceil(math.log2(z.shape[-1] / lanes))),
        "tasks": min(rows, _TASKS),
        "threads": torch.get_num_threads(),
        "dropped": dropped,
        "scale": _LEVELS / max(_LEVELS - dropped, 1),
    }


def _call(
    library: ctypes.CDLL, sizes: dict[str, Any], tensors: dict[str, Tensor | None], *, back: bool
) -> None:
    arguments = _Arguments(**sizes)
    held = [None if tensor is None else tensor.contiguous() for tensor in tensors.values()]
    for name, tensor in zip(tensors, held, strict=True):
        if tensor is not None:
            setattr(arguments, name, tensor.data_ptr())
    assert held[0] is not None
    double = _I(held[0].dtype == torch.float64)
    library.compressm_mix(ctypes.byref(arguments), double, _I(back))


def _matrices(weight: Tensor, bias: Tensor, padded: int) -> dict[str, Tensor | None]:
    """W by its columns and by its rows, and b, with zeros where a vector is not full."""
    width = weight.shape[1]
    room = (0, padded - width)
    halves = functional.pad(weight.view(2, width, width), (*room, *room))
    return {
        "into": halves[:, :, :width].permute(2, 0, 1),
        "out": halves,
        "bias": functional.pad(bias.view(2, width), room),
    }


@torch.library.custom_op("compressm::narrow_mix", mutates_args=())
def _mix(
    z: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    inner: Tensor | None,
    outer: Tensor | None,
    dropped: int,
) -> Tensor:
    library = kernels() if z.device.type == "cpu" else None
    if library is None:
        return _plain(z, x, weight, bias, inner, outer, dropped)
    sizes, y = _sizes(z, dropped), torch.empty_like(x, memory_format=torch.contiguous_format)
    given = {"z": z, "x": x, "inner": inner, "outer": outer, "y": y}
    _call(library, sizes, {**given, **_matrices(weight, bias, sizes["padded"])}, back=False)
    return y


@_mix.register_fake
def _(
    z: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    inner: Tensor | None,
    outer: Tensor | None,
    dropped: int,
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _plain(
    z: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    inner: Tensor | None,
    outer: Tensor | None,
    dropped: int,
) -> Tensor:
    m = _drop(functional.gelu(z), inner, dropped)
    return x + _drop(functional.glu(functional.linear(m, weight, bias), dim=-1), outer, dropped)


def _drop(x: Tensor, bits: Tensor | None, dropped: int) -> Tensor:
    if bits is None:
        return x
    scale = _LEVELS / max(_LEVELS - dropped, 1)
    return x * ((bits >= dropped - _LEVELS // 2).to(x.dtype) * scale)


@torch.library.custom_op("compressm::narrow_mix_backward", mutates_args=())
def _mix_backward(
    g_y: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    inner: Tensor | None,
    outer: Tensor | None,
    dropped: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, W and b."""
    library = kernels() if z.device.type == "cpu" else None
    if library is None:
        return _plain_backward(g_y, z, weight, bias, inner, outer, dropped)
    sizes, width = _sizes(z, dropped), z.shape[-1]
    padded, tasks = sizes["padded"], sizes["tasks"]
    g_z = torch.empty_like(z, memory_format=torch.contiguous_format)
    g_weight, g_bias = z.new_zeros(tasks, 2, padded, padded), z.new_zeros(tasks, 2, padded)
    given = {"z": z, "g_y": g_y, "inner": inner, "outer": outer}
    made = {"g_z": g_z, "g_weight": g_weight, "g_bias": g_bias}
    with record_function("narrow_mix::backward"):
        matrices = _matrices(weight, bias, padded)
        _call(library, sizes, {**given, **matrices, **made}, back=True)
    g_W = g_weight.sum(0)[:, :width, :width].reshape(weight.shape)
    return g_z, g_W.contiguous(), g_bias.sum(0)[:, :width].reshape(bias.shape)


def _plain_backward(
    g_y: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    inner: Tensor | None,
    outer: Tensor | None,
    dropped: int,
) -> tuple[Tensor, Tensor, Tensor]:
    m = _drop(functional.gelu(z), inner, dropped)
    value, gate = functional.linear(m, weight, bias).chunk(2, -1)
    is_open, g = gate.sigmoid(), _drop(g_y, outer, dropped)
    d = torch.cat([g * is_open, g * value * is_open * (1 - is_open)], -1)
    g_z = torch.ops.aten.gelu_backward(_drop(d @ weight, inner, dropped), z)
    rows = d.reshape(-1, d.shape[-1])
    return g_z.contiguous(), rows.mT @ m.reshape(-1, m.shape[-1]), rows.sum(0)


@_mix_backward.register_fake
def _(
    g_y: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    inner: Tensor | None,
    outer: Tensor | None,
    dropped: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(z.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    z, x, weight, bias, inner, outer, ctx.dropped = inputs
    ctx.save_for_backward(z, x, weight, bias, inner, outer)


def _backward(ctx: Any, g_y: Tensor) -> tuple[Tensor | None, ...]:
    z, x, weight, bias, inner, outer = ctx.saved_tensors
    if torch.is_grad_enabled():  # second derivatives are wanted
        y = _plain(z, torch.zeros_like(x), weight, bias, inner, outer, ctx.dropped)
        found = torch.autograd.grad(y, (z, weight, bias), g_y, create_graph=True)
    else:
        found = _mix_backward(g_y, z, weight, bias, inner, outer, ctx.dropped)
    return found[0], g_y, found[1], found[2], None, None, None


_mix.register_autograd(_backward, setup_context=_setup)
