"""The diagonal complex recurrence `x_k = λ x_{k-1} + B u_k`, `y_k = Re(C x_k) + D u_k`.

Shapes: u, y (batch, length, H); decay, phase (N,); B (N, H); C (H, N); D (H,).
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 32


def powers(decay: Tensor, phase: Tensor, count: int) -> Tensor:
    """λ^0 … λ^(count-1) of `λ = exp(-decay + i phase)`, shape (N, count), complex.

    The exponent is formed in float64: at k = 10^4 a float32 phase is wrong in the third digit.
    """
    k = torch.arange(count, device=decay.device, dtype=torch.float64)
    magnitude = torch.exp(-decay.double()[:, None] * k)
    angle = phase.double()[:, None] * k
    table = torch.complex(magnitude * torch.cos(angle), magnitude * torch.sin(angle))
    return table.to(torch.complex128 if decay.dtype == torch.float64 else torch.complex64)


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
    """`y_k = Re(C x_k) + D u_k`, `x_k = λ x_{k-1} + B u_k`, `λ = exp(-decay + i phase)`."""
    batch, length, _ = u.shape
    n = decay.numel()
    chunk = min(_CHUNK, length)
    chunks = -(-length // chunk)
    padded = torch.nn.functional.pad(u, (0, 0, 0, chunks * chunk - length))
    driven = torch.complex(B_re, B_im) @ padded.to(torch.complex(B_re, B_im).dtype).reshape(
        batch * chunks * chunk, -1
    ).transpose(0, 1)
    table = powers(decay, phase, chunk + 1)
    lag = torch.arange(chunk, device=u.device)
    lag = lag[None, :] - lag[:, None]
    toeplitz = torch.where(lag >= 0, table[:, lag.clamp_min(0)], 0)
    local = (driven.reshape(n, batch * chunks, chunk) @ toeplitz).reshape(n, batch, chunks, chunk)
    carry = torch.zeros_like(local[:, :, 0, 0])
    incoming = []
    for c in range(chunks):
        incoming.append(carry)
        carry = local[:, :, c, -1] + table[:, -1:] * carry
    state = local + torch.stack(incoming, 2)[..., None] * table[:, None, None, 1:]
    state = state.reshape(n, batch, -1)[..., :length].permute(1, 2, 0)
    y = state.real @ C_re.T - state.imag @ C_im.T
    return y if D is None else y + D * u
