"""The C++ passes over rows: tensors to pointers. The C side is `csrc/rows.h`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from compressm.ops.build import kernels

_I, _P, _D = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_SIZES = ("rows", "groups", "width", "tasks", "threads", "kind", "x_s", "gate_s")
_POINTERS = ("x", "gate", "weight", "g_y", "y", "g_x", "g_gate", "g_weight")
_STRIDED = ("x", "gate")
TASKS = 16  # partial sums of gradients: as many on any number of threads
_SMALL = 1 << 14  # numbers that are done before other threads have begun


class _Arguments(ctypes.Structure):
    """`RowArgs`: the fields in the order of the C++ struct."""

    _fields_ = [
        *((name, _I) for name in _SIZES),
        ("eps", _D),
        ("offset", _D),
        *((name, _P) for name in _POINTERS),
    ]


def library_for(x: Tensor) -> ctypes.CDLL | None:
    """The kernels, where they are for this tensor."""
    return kernels() if x.device.type == "cpu" and x.numel() else None


def as_rows(x: Tensor) -> Tensor:
    """(…, H) as (R, H), each row dense; a view where that is possible."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def call(
    library: ctypes.CDLL,
    function: str,
    tensors: dict[str, Tensor | None],
    *,
    back: bool,
    kind: int = 0,
    groups: int = 1,
    eps: float = 0.0,
    offset: float = 0.0,
) -> None:
    """Fill what is to be made: `y`, or `g_x`, `g_gate` and `g_weight`, which are dense."""
    x = tensors["x"]
    assert x is not None
    width = x.shape[-1]
    arguments = _Arguments(
        rows=x.numel() // width,
        groups=groups,
        width=width // groups,
        tasks=TASKS,
        threads=1 if x.numel() < _SMALL else torch.get_num_threads(),
        kind=kind,
        eps=eps,
        offset=offset,
    )
    held = []  # until the call is over
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if name in _STRIDED:
            tensor = as_rows(tensor)
            setattr(arguments, f"{name}_s", tensor.stride(0))
        else:
            tensor = tensor.contiguous()
        held.append(tensor)
        setattr(arguments, name, tensor.data_ptr())
    run = getattr(library, f"compressm_{function}")
    run(ctypes.byref(arguments), _I(x.dtype == torch.float64), _I(back))
