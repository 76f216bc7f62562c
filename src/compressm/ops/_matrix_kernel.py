"""The C++ recurrence of a matrix-valued state. The C side is `csrc/matrix_state.h`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.profiler import record_function

_I, _P = ctypes.c_int64, ctypes.c_void_p
_SIZES = ["batch", "length", "heads", "keys", "values", "every", "threads", "wide_decay", "unit"]
EPS = 1e-6
_INPUTS = ["q", "k", "v", "decay", "beta", "initial"]
_STRIDED = ["q", "k", "v"]


class _Arguments(ctypes.Structure):
    """`MatrixArgs`: the fields in the order of the C++ struct."""

    _fields_ = [
        *((name, _I) for name in _SIZES),
        *((name, ctypes.c_double) for name in ("scale", "eps")),
        *((name, _P) for name in (*_INPUTS, "o", "last", "before", "missed")),
        *((f"{name}_s", _I * 3) for name in _STRIDED),
        *((name, _P) for name in ("g_o", "g_last", *(f"g_{name}" for name in _INPUTS))),
    ]


def forward(
    library: ctypes.CDLL, tensors: dict[str, Tensor | None], every: int, unit: float
) -> None:
    """Fill `o`, `last`, `before` and, where there is β, `missed`."""
    _call(library, tensors, every, unit, back=False)


def backward(
    library: ctypes.CDLL, tensors: dict[str, Tensor | None], every: int, unit: float
) -> list[Tensor]:
    """Gradients of q, k, v, decay, β and the initial state; empty for what was not given."""
    k, v = tensors["k"], tensors["v"]
    assert k is not None
    assert v is not None
    found = {}
    for name in _INPUTS:
        given = tensors["before"][:, :, 0] if name == "initial" else tensors[name]  # type: ignore[index]
        found[f"g_{name}"] = k.new_zeros(() if given is None else given.shape)
    with record_function("matrix_state::backward"):
        _call(library, {**tensors, **found}, every, unit, back=True)
    return [g if g.ndim else g.new_empty(0) for g in found.values()]


def _call(
    library: ctypes.CDLL,
    tensors: dict[str, Tensor | None],
    every: int,
    unit: float,
    *,
    back: bool,
) -> None:
    k, v, decay = tensors["k"], tensors["v"], tensors["decay"]
    assert k is not None
    assert v is not None
    batch, length, heads, keys = k.shape
    sizes = {
        "batch": batch,
        "length": length,
        "heads": heads,
        "keys": keys,
        "values": v.shape[-1],
        "every": every,
        "threads": torch.get_num_threads(),
        "wide_decay": int(decay is not None and decay.ndim == k.ndim),
        "unit": int(unit > 0),
    }
    arguments = _Arguments(**sizes, scale=unit, eps=EPS)
    held = []  # until the call is over
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if name in _STRIDED:
            tensor = tensor if tensor.stride(-1) == 1 else tensor.contiguous()
            setattr(arguments, f"{name}_s", tensor.stride()[:3])
        else:
            tensor = tensor.contiguous()
        held.append(tensor)
        setattr(arguments, name, tensor.data_ptr())
    double = _I(k.dtype == torch.float64)
    library.compressm_matrix_state(ctypes.byref(arguments), double, _I(back))
