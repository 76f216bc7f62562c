"""`diagonal_ssm`: one entry for the diagonal complex recurrence, whatever computes it.

Shapes: B batch, L length, H width, N state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.ops._diagonal_op import diagonal
from compressm.ops.chunked import chunked, scan_states
from compressm.ops.cost import BACKENDS, choose
from compressm.ops.empty import of_no_sequence
from compressm.ops.fft import convolve
from compressm.ops.powers import impulse_response


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any operand is, else float32: a recurrence in half precision drifts."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def diagonal_ssm(
    u: Tensor,
    decay: Tensor,
    phase: Tensor,
    B_re: Tensor,
    B_im: Tensor,
    C_re: Tensor,
    C_im: Tensor,
    D: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """`x_k = λ x_{k-1} + B u_k`, `y_k = Re(C x_k) + D u_k`, `λ = exp(-decay + i phase)`.

    The state before the first step is zero.

    Differentiable in every tensor. Half-precision inputs are computed in float32, also under
    autocast; the result has the dtype of u.

    Backends (memory for the backward pass in brackets):
        "fft": convolution with the H×H impulse response [4 B L H + 4 L H² reals];
        "chunk": states at the ends of chunks of T steps, with a block Toeplitz product inside
            [2 B L N / T reals and tables of T H (4 N + T H)];
        "scan": all states, between two matrix products [2 B L N reals];
        "lanes": a C++ kernel for narrow layers on a CPU, step by step [B L N / 16 reals];
        "auto": the cheapest by `compressm.ops.cost.choose`.

    Args:
        u: (B, L, H), real.
        decay: `-log|λ|`, (N,), positive for a stable system.
        phase: argument of λ in radians, (N,).
        B_re: real part of the input matrix, (N, H).
        B_im: imaginary part of the input matrix, (N, H).
        C_re: real part of the output matrix, (H, N).
        C_im: imaginary part of the output matrix, (H, N).
        D: diagonal feed-through, (H,), or None.
        backend: one of the names above.

    Returns:
        y, (B, L, H).

    Raises:
        InputError: unknown backend, or an empty sequence.
    """
    if backend != "auto" and backend not in BACKENDS:
        known = ", ".join(repr(name) for name in ("auto", *BACKENDS))
        raise InputError(f"backend={backend!r} is unknown; use one of {known}")
    if u.dim() != 3 or u.shape[1] == 0:
        raise InputError(f"u must be (batch, length >= 1, width), got {tuple(u.shape)}")
    batch, length, width = u.shape
    if batch == 0:
        return of_no_sequence(u, decay, phase, B_re, B_im, C_re, C_im, D)
    plan = choose(batch, length, width, decay.shape[0], backend=backend, device=u.device.type)
    dtype = _compute_dtype(u, decay)
    with torch.autocast(u.device.type, enabled=False):
        x, decay, phase = u.to(dtype), decay.to(dtype), phase.to(dtype)
        B = torch.complex(B_re.to(dtype), B_im.to(dtype))
        C = torch.complex(C_re.to(dtype), C_im.to(dtype))
        D = None if D is None else D.to(dtype)
        if plan.backend == "fft":
            y = convolve(x, impulse_response(decay, phase, B, C, length, D))
        elif plan.backend == "lanes":
            lam = torch.exp(torch.complex(-decay.double(), phase.double()))
            parts = (lam.real.to(dtype), lam.imag.to(dtype), B.real, B.imag, C.real, C.imag)
            y, _ = diagonal(x, *parts, D)
        elif plan.backend == "chunk":
            y = chunked(x, decay, phase, B, C, D, plan.chunk)
        else:
            y, _ = scan_states(x, decay, phase, B, C, D)
    return y.to(u.dtype)
