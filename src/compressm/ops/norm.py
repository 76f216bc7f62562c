"""`rms_norm`: the root mean square norm, its gate included, in one pass on a CPU.

Shapes: H width, G groups of H / G numbers, any leading axes. The C side is `csrc/rows.h`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.profiler import record_function

from compressm.errors import InputError
from compressm.ops import _row_kernel
from compressm.ops._operator import operator

Activation = Literal["silu", "sigmoid"]
_NONE, _SILU, _SIGMOID, _SILU_FIRST = range(4)  # `Gate` of the C++ side
_KINDS = {("silu", False): _SILU, ("sigmoid", False): _SIGMOID, ("silu", True): _SILU_FIRST}


def _opened(gate: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """a(z) and its derivative."""
    s = gate.sigmoid()
    if kind == _SIGMOID:
        return s, s * (1 - s)
    return gate * s, s * (1 + gate * (1 - s))


def _normed(u: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """n, and r for each group, (…, G, 1)."""
    lines = u.unflatten(-1, (groups, -1))  # type: ignore[no-untyped-call]
    rate = torch.rsqrt(lines.square().mean(-1, keepdim=True) + eps)
    return (lines * rate).flatten(-2), rate


@operator("compressm::rms_norm")
def _norm(
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    kind: int,
    groups: int,
    eps: float,
    offset: float,
) -> Tensor:
    library = _row_kernel.library_for(x)
    if library is not None:
        y = x.new_empty(x.shape)
        given: dict[str, Tensor | None] = {"x": x, "gate": gate, "weight": weight, "y": y}
        options: dict[str, Any] = {"kind": kind, "groups": groups, "eps": eps, "offset": offset}
        _row_kernel.call(library, "rms_norm", given, back=False, **options)
        return y
    opened = None if gate is None else _opened(gate, kind)[0]
    u = x * opened if opened is not None and kind == _SILU_FIRST else x
    y = _normed(u, groups, eps)[0] * (offset + weight)
    return (y if opened is None or kind == _SILU_FIRST else y * opened).contiguous()


@_norm.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    kind: int,
    groups: int,
    eps: float,
    offset: float,
) -> Tensor:
    return x.new_empty(x.shape)


@operator("compressm::rms_norm_backward")
def _norm_backward(
    g_y: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    kind: int,
    groups: int,
    eps: float,
    offset: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, the weights and the gate; empty where there is no gate."""
    library = _row_kernel.library_for(x)
    if library is None:
        return _plain_backward(g_y, x, weight, gate, kind, groups, eps, offset)
    g_x, g_gate = x.new_empty(x.shape), x.new_empty(0 if gate is None else x.shape)
    sums = x.new_zeros(_row_kernel.TASKS, x.shape[-1])
    given: dict[str, Tensor | None] = {"x": x, "gate": gate, "weight": weight, "g_y": g_y}
    given |= {"g_x": g_x, "g_gate": g_gate, "g_weight": sums}
    options: dict[str, Any] = {"kind": kind, "groups": groups, "eps": eps, "offset": offset}
    with record_function("rms_norm::backward"):
        _row_kernel.call(library, "rms_norm", given, back=True, **options)
    return g_x, sums.sum(0), g_gate


def _plain_backward(
    g_y: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    kind: int,
    groups: int,
    eps: float,
    offset: float,
) -> tuple[Tensor, Tensor, Tensor]:
    first = kind == _SILU_FIRST
    opened, slope = (x, x) if gate is None else _opened(gate, kind)
    n, rate = _normed(x * opened if first else x, groups, eps)
    by, g_gate = offset + weight, x.new_empty(0)
    if gate is not None and not first:
        g_gate, g_y = g_y * n * by * slope, g_y * opened
    g_weight = (g_y * n).flatten(0, -2).sum(0)
    lines, d = (t.unflatten(-1, (groups, -1)) for t in (n, g_y * by))  # type: ignore[no-untyped-call]
    g_x = (rate * (d - lines * (lines * d).mean(-1, keepdim=True))).flatten(-2)
    if first:
        g_gate, g_x = g_x * x * slope, g_x * opened
    return g_x.contiguous(), g_weight, g_gate.contiguous()


@_norm_backward.register_fake
def _(
    g_y: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    kind: int,
    groups: int,
    eps: float,
    offset: float,
) -> tuple[Tensor, Tensor, Tensor]:
    empty = x.new_empty(0 if gate is None else x.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), empty


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, gate, *ctx.options = inputs
    ctx.save_for_backward(x, weight, gate)


def _backward(ctx: Any, g_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, gate = ctx.saved_tensors
    g_x, g_weight, g_gate = _norm_backward(g_y, x, weight, gate, *ctx.options)
    return g_x, g_weight, None if gate is None else g_gate, None, None, None, None


_norm.register_autograd(_backward, setup_context=_setup)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None = None,
    *,
    eps: float = 1e-6,
    offset: float = 0.0,
    groups: int = 1,
    activation: Activation = "silu",
    gate_first: bool = False,
) -> Tensor:
    """`y = x (mean x² + ε)^-½ (offset + w) · a(z)`, means over each of G groups of H / G numbers.

    The norm of Zhang and Sennrich (2019, arXiv 1910.07467). Gated, a(z) is a factor of y (Gated
    DeltaNet, arXiv 2412.06464) or, with `gate_first`, of x (Mamba-2, arXiv 2405.21060).

    Args:
        x: (…, H), real; half precision is computed in float32.
        weight: w (H,).
        gate: z, of x's shape; None: no gate.
        eps: ε, in units of x².
        offset: 1 where the weights are stored less one.
        groups: G.
        activation: a, "silu" (z σ(z)) or "sigmoid" (σ(z)).
        gate_first: x a(z) takes the place of x; with silu only.

    Returns:
        y, of x's shape and type, dense; differentiable once.

    Raises:
        InputError: shapes that do not fit, or a gate of an unknown kind.
    """
    width = x.shape[-1] if x.ndim else 0
    if not width or weight.shape != x.shape[-1:]:
        raise InputError(f"weight: got shape {tuple(weight.shape)}, expected ({width or 'width'},)")
    if gate is not None and gate.shape != x.shape:
        raise InputError(f"gate: got shape {tuple(gate.shape)}, expected {tuple(x.shape)} as x")
    if groups < 1 or width % groups:
        raise InputError(f"groups: got {groups}, expected a divisor of the width {width}")
    if (activation, gate_first) not in _KINDS:
        known = " or ".join(f"{a}, gate_first={first}" for a, first in _KINDS)
        raise InputError(f"activation: got {activation}, gate_first={gate_first}; expected {known}")
    kind = _NONE if gate is None else _KINDS[activation, gate_first]
    exact = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    z = None if gate is None else gate.to(exact)
    y: Tensor = _norm(x.to(exact), weight.to(exact), z, kind, groups, eps, offset)
    return y.to(x.dtype)
