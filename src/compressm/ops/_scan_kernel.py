"""The C++ selective scan: tensors to pointers and back. The C side is `csrc/scan.h`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.profiler import record_function

_I, _P = ctypes.c_int64, ctypes.c_void_p
_SIZES = ["batch", "channels", "length", "states", "groups", "splits", "threads", "softplus"]
_INPUTS = ["u", "delta", "A", "B", "C", "D", "z", "bias", "initial"]
_OUTPUTS = ["out", "ungated", "last", "checkpoints"]
_GRADS = ["g_out", "g_last", *(f"g_{name}" for name in _INPUTS)]


class _Arguments(ctypes.Structure):
    """`ScanArgs`: the fields in the order of the C++ struct."""

    _fields_ = [
        *((name, _I) for name in _SIZES),
        *((name, _P) for name in (*_INPUTS, *_OUTPUTS)),
        *((f"{name}_s", _I * 3) for name in ("u", "delta", "z", "out")),
        *((f"{name}_s", _I * 4) for name in ("B", "C")),
        *((name, _P) for name in _GRADS),
        *((f"{name}_s", _I * 3) for name in ("g_out", "g_z")),
    ]


def _arguments(sizes: dict[str, int], tensors: dict[str, Tensor | None]) -> _Arguments:
    arguments = _Arguments(**sizes)
    strided = {field[0] for field in _Arguments._fields_}
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(arguments, name, tensor.data_ptr())
            if f"{name}_s" in strided:
                setattr(arguments, f"{name}_s", tensor.stride())
    return arguments


def _sizes(u: Tensor, B: Tensor, softplus: bool) -> dict[str, int]:
    """Sizes, and into how many tasks the channels of a group are cut where the batch is small."""
    batch, channels, length = u.shape
    groups, states = B.shape[1], B.shape[2]
    threads = torch.get_num_threads()
    splits = 1 if batch * groups % threads == 0 else -(-4 * threads // (batch * groups))
    return {
        "batch": batch,
        "channels": channels,
        "length": length,
        "states": states,
        "groups": groups,
        "splits": min(splits, -(-channels // groups // 16)),
        "threads": threads,
        "softplus": int(softplus),
    }


def forward(
    library: ctypes.CDLL,
    inputs: dict[str, Tensor | None],
    outputs: dict[str, Tensor | None],
    softplus: bool,
) -> None:
    """Fill `out`, `last` and, where they are given, `ungated` and `checkpoints`."""
    u, B = inputs["u"], inputs["B"]
    assert u is not None
    assert B is not None
    arguments = _arguments(_sizes(u, B, softplus), {**inputs, **outputs})
    library.compressm_scan_forward(ctypes.byref(arguments), _I(u.dtype == torch.float64))


def backward(
    library: ctypes.CDLL,
    tensors: dict[str, Tensor | None],
    like: Tensor,
    softplus: bool,
    g_z: Tensor | None = None,
) -> dict[str, Tensor]:
    """Gradients by name, from inputs, kept outputs and `g_out`; `like` has the layout of out.

    That of z is written to `g_z` where it is given, which may have any strides.
    """
    u, A, B = tensors["u"], tensors["A"], tensors["B"]
    assert u is not None
    assert A is not None
    assert B is not None
    sizes = _sizes(u, B, softplus)
    batch, channels, length = u.shape
    shared = (sizes["splits"], batch, sizes["groups"], length, sizes["states"])
    grads: dict[str, Tensor | None] = {
        "g_u": torch.empty_like(like),
        "g_delta": torch.empty_like(like),
        "g_z": torch.empty_like(like) if g_z is None and tensors["z"] is not None else g_z,
        "g_A": u.new_empty(batch, *A.shape),
        "g_B": u.new_zeros(shared),
        "g_C": u.new_zeros(shared),
        "g_D": None if tensors["D"] is None else u.new_empty(batch, channels),
        "g_bias": None if tensors["bias"] is None else u.new_empty(batch, channels),
        "g_initial": None if tensors.get("initial") is None else u.new_empty(batch, *A.shape),
    }
    arguments = _arguments(sizes, {**tensors, **grads, "out": like})
    # Named for profilers: inside a larger node of autograd no operator shows where time goes.
    with record_function("selective_scan::backward"):
        library.compressm_scan_backward(ctypes.byref(arguments), _I(u.dtype == torch.float64))
    summed = {}
    for name, grad in grads.items():
        if grad is None:
            continue
        if name in ("g_B", "g_C"):
            grad = (grad[0] if sizes["splits"] == 1 else grad.sum(0)).transpose(2, 3)
        elif name in ("g_A", "g_D", "g_bias"):
            grad = grad.sum(0)
        summed[name[2:]] = grad
    return summed
