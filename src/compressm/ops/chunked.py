"""The recurrence as a scan over chunks of T steps, with real matrix products around it.

Shapes: B batch, L length, H width, N state, T steps per chunk, S = ceil(L / T) chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.ops.gemm import linear
from compressm.ops.powers import impulse_response, powers
from compressm.ops.scan import scan


def _as_complex(x: Tensor) -> Tensor:
    """The last axis, Re and Im interleaved (..., 2N), as complex numbers (..., N)."""
    return torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))


def scan_states(
    u: Tensor,
    decay: Tensor,
    phase: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`y_k = Re(C x_k) + D u_k` through all states: two real products with a scan between them.

    8 H N flops per step. Memory for the backward pass: B L N complex numbers (the states).

    Args:
        u: (B, L, H), real.
        decay: `-log|λ|`, (N,).
        phase: argument of λ in radians, (N,).
        B: (N, H), complex.
        C: (H, N), complex.
        D: (H,), real, or None.
        state: complex state before the first step, (B, N), or None for zero.

    Returns:
        y (B, L, H) and the complex state after the last step (B, N).
    """
    states, width = B.shape
    # Re and Im interleaved, so that real products read and write complex numbers in place.
    into = torch.view_as_real(B).transpose(1, 2).reshape(2 * states, width)
    out = torch.view_as_real(C.conj().resolve_conj()).reshape(width, 2 * states)
    v = _as_complex(linear(u, into))
    if state is not None:
        first = v[:, :1] + (torch.exp(torch.complex(-decay, phase)) * state)[:, None]
        v = torch.cat((first, v[:, 1:]), 1)
    x = scan(v, decay, phase)
    y = linear(torch.view_as_real(x).flatten(-2), out)
    return (y if D is None else torch.addcmul(y, D, u)), x[:, -1]


def chunked(
    u: Tensor,
    decay: Tensor,
    phase: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    chunk: int,
) -> Tensor:
    """`y_k = Re(C x_k) + D u_k` with states formed only at the ends of chunks of `chunk` steps.

    Inside a chunk the output is a block Toeplitz product of its inputs; what came before enters
    through the carried state: `y_c = K u_c + Re(C λ^{t+1} x_{c-1})`,
    `x_c = λ^T x_{c-1} + sum_t λ^{T-1-t} B u_{c,t}`. All exponents are non-negative, so nothing
    over- or underflows into a NaN for small |λ|. 8 H N + 2 T H² flops per step.

    Memory for the backward pass: B L N / T complex numbers, and tables of T H (4 N + T H) reals.

    Args:
        u: (B, L, H), real.
        decay: `-log|λ|`, (N,).
        phase: argument of λ in radians, (N,).
        B: (N, H), complex.
        C: (H, N), complex.
        D: (H,), real, or None.
        chunk: T.

    Returns:
        y, (B, L, H).
    """
    batch, length, width = u.shape
    states = decay.shape[0]
    count = -(-length // chunk)
    missing = count * chunk - length
    padded = torch.nn.functional.pad(u, (0, 0, 0, missing)) if missing else u
    blocks = padded.reshape(batch, count, chunk * width)

    lags = torch.arange(chunk, device=u.device)
    table = powers(decay, phase, torch.arange(chunk + 1, device=u.device))
    # (N, 2, T, H): row (n, part) collects a chunk's inputs into the state at its end.
    into = B[:, None, :] * table[:, :chunk].flip(1)[:, :, None]
    into = torch.stack((into.real, into.imag), 1).reshape(2 * states, chunk * width)
    # (T, H, N, 2): row (t, h) reads the state before the chunk.
    out = (C * table[:, 1:].t()[:, None, :]).conj().resolve_conj()
    out = torch.view_as_real(out).reshape(chunk * width, 2 * states)
    kernel = impulse_response(decay, phase, B, C, chunk, D).permute(2, 0, 1)
    lag = lags[:, None] - lags
    # One flat index: with an index of two axes inductor (torch 2.13) fails.
    entries = kernel[lag.clamp_min(0).flatten()].reshape(chunk, chunk, width, width)
    toeplitz = torch.where((lag >= 0)[..., None, None], entries, 0)
    toeplitz = toeplitz.transpose(1, 2).reshape(chunk * width, chunk * width)

    y = linear(blocks, toeplitz)
    if count > 1:
        ends = _as_complex(linear(blocks[:, :-1], into))
        before = scan(ends, decay, phase, stride=chunk)
        carried = linear(torch.view_as_real(before).flatten(-2), out)
        y = y + torch.nn.functional.pad(carried, (0, 0, 1, 0))
    return y.reshape(batch, count * chunk, width)[:, :length]
