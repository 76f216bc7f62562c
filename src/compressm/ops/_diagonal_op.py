"""`compressm::diagonal`: the recurrence of a narrow layer on a CPU, its states in vector lanes.

Shapes: B batch, L steps, H width, N states, T steps of a tile. The C side is `csrc/diagonal.h`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from compressm.ops.build import kernels
from compressm.ops.scan import scan

_TILE = 32  # `kTile`
_TASKS = 16  # partial sums of gradients: as many on any number of threads
_BYTES = 64  # of the widest vectors
_I, _P = ctypes.c_int64, ctypes.c_void_p
_SIZES = ("batch", "length", "width", "padded", "tasks", "threads")
_MATRICES = ("B_re", "B_im", "C_re", "C_im")
_INPUTS = ("u", "lam_re", "lam_im", *_MATRICES, "D")


class _Arguments(ctypes.Structure):
    """`DiagonalArgs`: the fields in the order of the C++ struct."""

    _fields_ = [
        *((name, _I) for name in _SIZES),
        *((name, _P) for name in (*_INPUTS, "y", "before", "g_y")),
        *((f"g_{name}", _P) for name in _INPUTS),
    ]


def available() -> bool:
    """Whether the kernel can run here; the first call builds it."""
    return kernels() is not None


# What `torch.compiler.assume_constant_result` does. That function imports the compiler first, which
# takes longer than all of ours.
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _padded(states: int, dtype: torch.dtype) -> int:
    lanes = _BYTES // dtype.itemsize
    return -(-states // lanes) * lanes


def _tiles(length: int) -> int:
    return -(-length // _TILE)


def _call(library: ctypes.CDLL, tensors: dict[str, Tensor | None], tasks: int, back: bool) -> None:
    u, lam = tensors["u"], tensors["lam_re"]
    assert u is not None
    assert lam is not None
    sizes = (*u.shape, len(lam), tasks, torch.get_num_threads())
    arguments = _Arguments(**dict(zip(_SIZES, sizes, strict=True)))
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(arguments, name, tensor.data_ptr())
    double = _I(u.dtype == torch.float64)
    library.compressm_diagonal(ctypes.byref(arguments), double, _I(back))


def _in_lanes(inputs: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Dense, the matrices as (H, N), and zeros in the lanes that are no states."""
    found: dict[str, Tensor | None] = {}
    for name, tensor in inputs.items():
        if tensor is None:
            continue
        if name in ("B_re", "B_im"):
            tensor = tensor.mT
        if name in ("lam_re", "lam_im", *_MATRICES):
            missing = _padded(tensor.shape[-1], tensor.dtype) - tensor.shape[-1]
            tensor = functional.pad(tensor, (0, missing))
        found[name] = tensor.contiguous()
    return found


@torch.library.custom_op("compressm::diagonal", mutates_args=())
def diagonal(
    u: Tensor,
    lam_re: Tensor,
    lam_im: Tensor,
    B_re: Tensor,
    B_im: Tensor,
    C_re: Tensor,
    C_im: Tensor,
    D: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`x_t = λ x_{t-1} + B u_t`, `y_t = Re(C x_t) + D u_t`; y, and the states before the tiles."""
    y, before = _empty(u, lam_re)
    library = kernels() if u.device.type == "cpu" else None
    inputs = dict(zip(_INPUTS, (u, lam_re, lam_im, B_re, B_im, C_re, C_im, D), strict=True))
    if library is not None:
        results: dict[str, Tensor | None] = {"y": y, "before": before}
        _call(library, {**_in_lanes(inputs), **results}, min(len(u), _TASKS), back=False)
        return y, before
    x = _states(u, lam_re, lam_im, B_re, B_im)
    y.copy_((x @ torch.complex(C_re, C_im).mT).real)
    return (y if D is None else y.addcmul_(D, u)), before.zero_()


def _empty(u: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    kept = (u.shape[0], _tiles(u.shape[1]), 2, _padded(len(lam), u.dtype))
    return torch.empty_like(u, memory_format=torch.contiguous_format), u.new_empty(kept)


@diagonal.register_fake
def _(
    u: Tensor,
    lam_re: Tensor,
    lam_im: Tensor,
    B_re: Tensor,
    B_im: Tensor,
    C_re: Tensor,
    C_im: Tensor,
    D: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return _empty(u, lam_re)


def _states(u: Tensor, lam_re: Tensor, lam_im: Tensor, B_re: Tensor, B_im: Tensor) -> Tensor:
    lam = torch.complex(lam_re, lam_im)
    return scan(u.to(lam.dtype) @ torch.complex(B_re, B_im).mT, *_polar(lam))


def _polar(lam: Tensor) -> tuple[Tensor, Tensor]:
    """Decay and phase; what has decayed to zero is as good as the smallest number."""
    return -lam.abs().clamp_min(torch.finfo(lam.real.dtype).tiny).log(), lam.angle()


@torch.library.custom_op("compressm::diagonal_backward", mutates_args=())
def diagonal_backward(
    g_y: Tensor,
    u: Tensor,
    lam_re: Tensor,
    lam_im: Tensor,
    B_re: Tensor,
    B_im: Tensor,
    C_re: Tensor,
    C_im: Tensor,
    D: Tensor | None,
    before: Tensor,
) -> list[Tensor]:
    """Gradients of all inputs; an empty tensor for a D that was not given."""
    library = kernels() if u.device.type == "cpu" else None
    inputs = dict(zip(_INPUTS, (u, lam_re, lam_im, B_re, B_im, C_re, C_im, D), strict=True))
    if library is None:
        return _plain_backward(g_y, u, lam_re, lam_im, B_re, B_im, C_re, C_im, D)
    given, tasks, width = _in_lanes(inputs), min(len(u), _TASKS), u.shape[2]
    padded = _padded(len(lam_re), u.dtype)
    g_u = torch.empty_like(g_y, memory_format=torch.contiguous_format)
    found: dict[str, Tensor | None] = {"g_u": g_u}
    found |= {f"g_{name}": u.new_zeros(tasks, padded) for name in ("lam_re", "lam_im")}
    found |= {f"g_{name}": u.new_zeros(tasks, width, padded) for name in _MATRICES}
    found["g_D"] = None if D is None else u.new_zeros(tasks, width)
    with record_function("diagonal::backward"):
        made = {"before": before, "g_y": g_y.contiguous(), **found}
        _call(library, {**given, **made}, tasks, back=True)
    gradients = []
    for name in _INPUTS:
        g = found[f"g_{name}"]
        if g is None:
            g = u.new_empty(0)
        elif name != "u":
            g = g.sum(0) if name == "D" else g.sum(0)[..., : len(lam_re)]
        gradients.append(g.mT if name in ("B_re", "B_im") else g)
    return gradients


def _plain_backward(
    g_y: Tensor,
    u: Tensor,
    lam_re: Tensor,
    lam_im: Tensor,
    B_re: Tensor,
    B_im: Tensor,
    C_re: Tensor,
    C_im: Tensor,
    D: Tensor | None,
) -> list[Tensor]:
    lam, B, C = (torch.complex(*z) for z in ((lam_re, lam_im), (B_re, B_im), (C_re, C_im)))
    x = _states(u, lam_re, lam_im, B_re, B_im)
    direct = g_y.to(lam.dtype) @ C.conj()
    decay, phase = _polar(lam)
    g = scan(direct, decay, -phase, reverse=True)
    g_u = (g @ B.conj()).real
    g_B = torch.einsum("bln,blh->nh", g, u.to(lam.dtype))
    g_C = torch.einsum("blh,bln->hn", g_y.to(lam.dtype), x.conj())
    g_lam = (g[:, 1:] * x[:, :-1].conj()).sum((0, 1))
    gradients = [g_u, g_lam.real, g_lam.imag, g_B.real, g_B.imag, g_C.real, g_C.imag]
    if D is None:
        return [t.clone() for t in gradients] + [u.new_empty(0)]
    gradients[0] = g_u + D * g_y
    return [t.clone() for t in (*gradients, (u * g_y).sum((0, 1)))]


@diagonal_backward.register_fake
def _(
    g_y: Tensor,
    u: Tensor,
    lam_re: Tensor,
    lam_im: Tensor,
    B_re: Tensor,
    B_im: Tensor,
    C_re: Tensor,
    C_im: Tensor,
    D: Tensor | None,
    before: Tensor,
) -> list[Tensor]:
    inputs = (u, lam_re, lam_im, B_re, B_im, C_re, C_im)
    return [t.new_empty(t.shape) for t in inputs] + [u.new_empty(0 if D is None else D.shape)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, g_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, before = ctx.saved_tensors
    if torch.is_grad_enabled():  # second derivatives are wanted
        *gradients, g_D = _plain_backward(g_y, *inputs)
    else:
        *gradients, g_D = diagonal_backward(g_y, *inputs, before)
    return *gradients, None if inputs[-1] is None else g_D


diagonal.register_autograd(_backward, setup_context=_setup)
