"""`swiglu`: silu of one half times the other, in one pass on a CPU.

Shapes: H width, any leading axes. The C side is `csrc/rows.h`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from compressm.errors import InputError
from compressm.ops import _row_kernel
from compressm.ops._operator import operator


@operator("compressm::swiglu")
def _swiglu(gate: Tensor, value: Tensor) -> Tensor:
    library = _row_kernel.library_for(gate)
    if library is None:
        return (functional.silu(gate) * value).contiguous()
    y = gate.new_empty(gate.shape)
    given: dict[str, Tensor | None] = {"x": gate, "gate": value, "y": y}
    _row_kernel.call(library, "swiglu", given, back=False)
    return y


@_swiglu.register_fake
def _(gate: Tensor, value: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


@operator("compressm::swiglu_backward")
def _swiglu_backward(g_y: Tensor, gate: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of both."""
    library = _row_kernel.library_for(gate)
    if library is None:
        s = gate.sigmoid()
        g_gate = g_y * value * s * (1 + gate * (1 - s))
        return g_gate.contiguous(), (g_y * gate * s).contiguous()
    made = {"g_x": gate.new_empty(gate.shape), "g_gate": gate.new_empty(gate.shape)}
    given: dict[str, Tensor | None] = {"x": gate, "gate": value, "g_y": g_y, **made}
    with record_function("swiglu::backward"):
        _row_kernel.call(library, "swiglu", given, back=True)
    return made["g_x"], made["g_gate"]


@_swiglu_backward.register_fake
def _(g_y: Tensor, gate: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, g_y: Tensor) -> tuple[Tensor, Tensor]:
    gate, value = ctx.saved_tensors
    g_gate, g_value = _swiglu_backward(g_y, gate, value)
    return g_gate, g_value


_swiglu.register_autograd(_backward, setup_context=_setup)


def swiglu(gate: Tensor, value: Tensor) -> Tensor:
    """`y = silu(g) v`, what SwiGLU does between its projections (Shazeer 2020, arXiv 2002.05202).

    Args:
        gate: g (…, H), real; half precision is computed in float32.
        value: v, of g's shape.

    Returns:
        y, of g's shape and type, dense; differentiable once.

    Raises:
        InputError: shapes that do not fit.
    """
    if not gate.ndim or gate.shape != value.shape:
        shapes = f"{tuple(gate.shape)} and {tuple(value.shape)}"
        raise InputError(f"gate, value: got shapes {shapes}, expected one shape (…, width)")
    exact = torch.promote_types(torch.promote_types(gate.dtype, value.dtype), torch.float32)
    y: Tensor = _swiglu(gate.to(exact), value.to(exact))
    return y.to(gate.dtype)
