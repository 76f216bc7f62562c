"""`mamba_inner`: a Mamba-1 mixer behind its input projection, as one node of autograd.

The parts are those of `causal_conv1d`, `selective_scan` and matrix products. Run one by one they
spend as much time on joining and adding gradients of (B, L, D) tensors as on the convolution; here
every gradient is written where it belongs. Shapes: B batch, L steps, D channels, N states, K taps,
R rank of the step sizes, H width of the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compressm.errors import InputError
from compressm.ops import _scan_kernel
from compressm.ops._scan_op import like, scan
from compressm.ops.build import kernels
from compressm.ops.conv import causal_conv1d, conv_gradients
from compressm.ops.gemm import product
from compressm.ops.selective import selective_scan


class _Inner(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        xz: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor | None,
        x_proj: Tensor,
        dt_proj: Tensor,
        dt_bias: Tensor | None,
        A: Tensor,
        D: Tensor | None,
        out_proj: Tensor,
        low: torch.dtype,
    ) -> Tensor:
        ctx.low = low
        x, z = xz.transpose(1, 2).chunk(2, 1)
        u = causal_conv1d(x, conv_weight, conv_bias, silu=True)
        parts = _product(_rows(u), x_proj, low)
        delta = _series(_product(parts[:, : dt_proj.shape[1]], dt_proj, low), u)
        B, C = _shared(parts, u, A)
        y, _, ungated, kept = scan(u, delta, A, B, C, D, z, dt_bias, None, True, True)
        ctx.save_for_backward(
            xz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj, u, parts, delta,
            y, ungated, kept,
        )  # fmt: skip
        return _product(_rows(y), out_proj, low).view(*xz.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (
            xz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj, u, parts, delta,
            y, ungated, kept,
        ) = ctx.saved_tensors  # fmt: skip
        library, needs, low = kernels(), ctx.needs_input_grad, ctx.low
        assert library is not None
        x, z = xz.transpose(1, 2).chunk(2, 1)
        g_xz = torch.empty_like(xz)
        g_x, g_z = g_xz.transpose(1, 2).chunk(2, 1)
        grad = grad.reshape(-1, grad.shape[-1])
        B, C = _shared(parts, u, A)
        inputs = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "bias": dt_bias}
        given = {"ungated": ungated, "checkpoints": kept}
        given["g_out"] = _series(_product(grad, out_proj.t(), low), u)
        found = _scan_kernel.backward(library, {**inputs, **given}, like(u), True, g_z=g_z)
        g_delta, g_u = _rows(found["delta"]), _rows(found["u"])
        g_steps = _product(g_delta, dt_proj.t(), low)
        g_parts = torch.cat((g_steps, *(_rows(found[name][:, 0]) for name in "BC")), 1)
        if low == u.dtype:
            torch.addmm(g_u, g_parts, x_proj, out=g_u)
        else:
            g_u += _product(g_parts, x_proj.t(), low)
        g_conv, g_conv_bias = conv_gradients(
            library, _series(g_u, u), x, conv_weight, conv_bias, silu=True, g_x=g_x
        )
        ranks = parts[:, : dt_proj.shape[1]]
        return (
            g_xz,
            g_conv,
            None if conv_bias is None else g_conv_bias,
            _weight_gradient(g_parts, _rows(u), low) if needs[3] else None,
            _weight_gradient(g_delta, ranks, low) if needs[4] else None,
            found.get("bias"),
            found["A"],
            found.get("D"),
            _weight_gradient(grad, _rows(y), low) if needs[8] else None,
            None,
        )


def _product(x: Tensor, weight: Tensor, low: torch.dtype) -> Tensor:
    """`x weightᵀ`, computed in `low`."""
    if low == x.dtype:
        return product(x, weight)
    return (x.to(low) @ weight.to(low).t()).to(x.dtype)


def _weight_gradient(grad: Tensor, x: Tensor, low: torch.dtype) -> Tensor:
    """`gradᵀ x`, computed in `low`."""
    if grad.shape[1] <= x.shape[1]:
        return _product(grad.t(), x.t(), low)
    # The same product transposed: its left operand may be copied, so that is the smaller one.
    return _product(x.t(), grad.t(), low).t()


def _rows(series: Tensor) -> Tensor:
    """(B, D, L) with the channels innermost as (B L, D)."""
    return series.transpose(1, 2).reshape(-1, series.shape[1])


def _series(rows: Tensor, as_in: Tensor) -> Tensor:
    """(B L, D) as (B, D, L)."""
    batch, channels, length = as_in.shape
    return rows.view(batch, length, channels).transpose(1, 2)


def _shared(parts: Tensor, u: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """B and C, each (B, 1, N, L), of the outputs of the projection of x."""
    states = A.shape[1]
    series = parts.view(u.shape[0], 1, u.shape[2], -1).transpose(2, 3)
    return series[:, :, -2 * states : -states], series[:, :, -states:]


def _fits(tensors: list[Tensor | None]) -> bool:
    """Whether the one node may run: on the CPU, in one precision, with nothing that traces it."""
    given = [t for t in tensors if t is not None]
    return (
        not torch.compiler.is_compiling()
        and all(t.device.type == "cpu" for t in given)
        and {t.dtype for t in given} in ({torch.float32}, {torch.float64})
        and given[0].numel() > 0
        and torch.is_grad_enabled()
        and kernels() is not None
    )


def _check(tensors: dict[str, Tensor | None]) -> None:
    """Every tensor against sizes of `A`, `dt_proj` and `out_proj`; names stand for free ones."""
    sizes = {n: t.shape for n, t in tensors.items() if t is not None}
    channels, states = (*sizes["A"], 0, 0)[:2]
    rank, width = (sizes["dt_proj"] or (0,))[-1], (sizes["out_proj"] or (0,))[0]
    wanted: dict[str, tuple[int | str, ...]] = {
        "A": ("channels", "states"),
        "dt_proj": (channels, "rank"),
        "xz": ("batch", "length", 2 * channels),
        "conv_weight": (channels, "taps"),
        "conv_bias": (channels,),
        "x_proj": (rank + 2 * states, channels),
        "dt_bias": (channels,),
        "D": (channels,),
        "out_proj": ("width", channels),
        "out_bias": (width,),
    }
    for name, shape in wanted.items():
        got = tuple(sizes.get(name, shape))
        fits = len(got) == len(shape) and all(
            isinstance(wants, str) or has == wants for has, wants in zip(got, shape, strict=True)
        )
        if not fits:
            expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
            raise InputError(f"{name}: got shape {got}, expected ({expected})")


def mamba_inner(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    out_proj: Tensor,
    out_bias: Tensor | None = None,
) -> Tensor:
    """What a Mamba-1 mixer does behind its input projection (arXiv 2312.00752, figure 3).

        x, z = xz;  u = silu(conv(x));  r, B, C = W_x u;  δ = softplus(W_dt r + b_dt)
        y = selective_scan(u, δ, A, B, C, D, gate z);  output = W_out y + b_out

    On a CPU with the C++ kernels, and where gradients are wanted, one node of autograd, with the
    same numbers as its parts; else the parts: without gradients, under `torch.compile`, with
    weights in half precision, on a GPU. Under autocast the products run in its type.

    Args:
        xz: (B, L, 2 D), the two halves of the input projection side by side.
        conv_weight: (D, K).
        conv_bias: (D,), or None.
        x_proj: (R + 2 N, D).
        dt_proj: (D, R).
        dt_bias: (D,), or None.
        A: (D, N), negative for decay.
        D: (D,), or None.
        out_proj: (H, D).
        out_bias: (H,), or None.

    Returns:
        (B, L, H); differentiable once.

    Raises:
        InputError: shapes that do not fit.
    """
    given = {"xz": xz, "conv_weight": conv_weight, "conv_bias": conv_bias, "x_proj": x_proj}
    given |= {"dt_proj": dt_proj, "dt_bias": dt_bias, "A": A, "D": D}
    _check({**given, "out_proj": out_proj, "out_bias": out_bias})
    rank = dt_proj.shape[1]
    weights = [conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj]
    mixed = torch.is_autocast_enabled("cpu")
    low = torch.get_autocast_dtype("cpu") if mixed else xz.dtype
    whole = xz.float() if mixed else xz
    if _fits([whole, *weights]):
        dense = [w if w is None else w.contiguous() for w in weights]
        y: Tensor = _Inner.apply(whole.contiguous(), *dense, low)  # type: ignore[no-untyped-call]
        return (y if out_bias is None else y + out_bias).to(low)
    x, z = xz.transpose(1, 2).chunk(2, 1)
    u = causal_conv1d(x, conv_weight, conv_bias, silu=True)
    parts = functional.linear(u.transpose(1, 2), x_proj)
    steps, B, C = torch.split(parts, [rank, A.shape[1], A.shape[1]], -1)
    delta, B, C = (t.transpose(1, 2) for t in (functional.linear(steps, dt_proj), B, C))
    scanned = selective_scan(u, delta, A, B, C, D, z, dt_bias, True)
    assert isinstance(scanned, Tensor)
    return functional.linear(scanned.transpose(1, 2), out_proj, out_bias)
