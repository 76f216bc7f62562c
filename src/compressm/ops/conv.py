"""`causal_conv1d`: the short depthwise convolution before a selective scan, with its silu.

PyTorch's own depthwise convolution is several times slower on a CPU, its backward most of all.
Shapes: B batch, D channels, L steps, K taps.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from compressm.errors import InputError
from compressm.ops import gpu
from compressm.ops._operator import operator
from compressm.ops._scan_op import like
from compressm.ops.build import kernels

_I, _P = ctypes.c_int64, ctypes.c_void_p
_SIZES = ("batch", "channels", "length", "taps", "threads", "silu")
_POINTERS = ("x", "weight", "bias", "y", "g_y", "g_x", "g_weight", "g_bias")
_STRIDES = ("x", "y", "g_y")


class _Arguments(ctypes.Structure):
    """`ConvArgs` of `csrc/conv.h`."""

    _fields_ = [
        *((name, _I) for name in _SIZES),
        *((name, _P) for name in _POINTERS),
        *((f"{name}_s", _I * 3) for name in _STRIDES),
    ]


def _run(library: ctypes.CDLL, silu: bool, **tensors: Tensor | None) -> None:
    x, weight = tensors["x"], tensors["weight"]
    assert x is not None
    assert weight is not None
    sizes = (*x.shape, weight.shape[1], torch.get_num_threads(), int(silu))
    arguments = _Arguments(**dict(zip(_SIZES, sizes, strict=True)))
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(arguments, name, tensor.data_ptr())
            if name in _STRIDES:
                setattr(arguments, f"{name}_s", tensor.stride())
    library.compressm_conv(ctypes.byref(arguments), _I(x.dtype == torch.float64))


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The sums before silu, by PyTorch."""
    padded = functional.pad(x, (weight.shape[1] - 1, 0))
    return functional.conv1d(padded, weight[:, None], bias, groups=x.shape[1])


@operator("compressm::causal_conv1d")
def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    y = like(x)
    library = kernels() if x.device.type == "cpu" else None
    if library is not None and x.numel():
        _run(library, silu, x=x, weight=weight, bias=bias, y=y)
        return y
    sums = _plain(x, weight, bias)
    return y.copy_(functional.silu(sums) if silu else sums)


@_conv.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    return like(x)


def conv_gradients(
    library: ctypes.CDLL,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    silu: bool,
    g_x: Tensor,
) -> tuple[Tensor, Tensor]:
    """By the kernel: fills `g_x`, of any strides; the gradients of weight and bias."""
    g_weight = x.new_empty(x.shape[0], *weight.shape)
    g_bias = x.new_empty(x.shape[:2])
    given = {"x": x, "weight": weight, "bias": bias, "y": g_x, "g_y": grad}
    with record_function("causal_conv1d::backward"):
        _run(library, silu, **given, g_x=g_x, g_weight=g_weight, g_bias=g_bias)
    return g_weight.sum(0), g_bias.sum(0)


@operator("compressm::causal_conv1d_backward")
def _conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    g_x = like(x)
    library = kernels() if x.device.type == "cpu" else None
    if library is not None and x.numel():
        return g_x, *conv_gradients(library, grad, x, weight, bias, silu=silu, g_x=g_x)
    if silu:
        sums = _plain(x, weight, bias)
        s = torch.sigmoid(sums)
        grad = grad * s * (1 + sums * (1 - s))
    taps, length = weight.shape[1], x.shape[2]
    before, after = functional.pad(x, (taps - 1, 0)), functional.pad(grad, (0, taps - 1))
    rows = [(grad * before[..., k : k + length]).sum((0, 2)) for k in range(taps)]
    for k in range(taps):
        part = weight[:, k, None] * after[..., taps - 1 - k :][..., :length]
        g_x = g_x.copy_(part) if k == 0 else g_x.add_(part)
    return g_x, torch.stack(rows, 1), grad.sum((0, 2))


@_conv_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return like(x), x.new_empty(weight.shape), x.new_empty(x.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    g_x, g_weight, g_bias = _conv_backward(grad, x, weight, bias, ctx.silu)
    return g_x, g_weight, None if bias is None else g_bias, None


_conv.register_autograd(_backward, setup_context=_setup)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False
) -> Tensor:
    """`y_t = act(bias + sum_k w_k x_{t-K+1+k})` for every channel apart; act is silu or nothing.

    What `causal_conv1d_fn` of the CUDA package `causal_conv1d` computes, which is used on a GPU
    where it is installed. On a CPU a C++ kernel, with PyTorch where it cannot be built.

    Args:
        x: (B, D, L), any strides; channels innermost is the fastest.
        weight: (D, K).
        bias: (D,), or None.
        silu: whether silu follows.

    Returns:
        y (B, D, L), of x's type; differentiable once.

    Raises:
        InputError: shapes that do not fit.
    """
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[1] or not weight.shape[1]:
        raise InputError(
            f"x, weight: got shapes {tuple(x.shape)} and {tuple(weight.shape)}, expected "
            "(batch, channels, length) and (channels, taps)"
        )
    if bias is not None and bias.shape != x.shape[1:2]:
        raise InputError(f"bias: got shape {tuple(bias.shape)}, expected ({x.shape[1]},)")
    fused = gpu.causal_conv(x.device, x.dtype)
    if fused is not None:
        return fused(x, weight, bias, activation="silu" if silu else None)  # type: ignore[no-any-return]
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    row = None if bias is None else bias.to(dtype).contiguous()
    y: Tensor = _conv(x.to(dtype), weight.to(dtype).contiguous(), row, silu)
    return y.to(x.dtype)
