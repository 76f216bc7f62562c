"""Powers of the diagonal and the impulse response (Markov parameters) they make.

Shapes: N state, H_in inputs, H_out outputs, K number of lags.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressm.ops.gemm import linear


def powers(decay: Tensor, phase: Tensor, exponents: Tensor) -> Tensor:
    """`λ^k = exp(k (-decay + i phase))` for every k in `exponents`.

    The exponent is formed in float64, as a float32 phase of 10^4 radians is wrong in its fourth
    digit. Only non-negative exponents are meant: small |λ| then underflows to a harmless zero.

    Args:
        decay: `-log|λ|`, (N,), not negative.
        phase: argument of λ in radians, (N,).
        exponents: (K,), integers.

    Returns:
        (N, K), complex64, or complex128 for float64 arguments.
    """
    rate = torch.complex(-decay.double(), phase.double())
    table = torch.exp(rate[:, None] * exponents.double())
    return table if decay.dtype == torch.float64 else table.to(torch.complex64)


def impulse_response(
    decay: Tensor,
    phase: Tensor,
    B: Tensor,
    C: Tensor,
    length: int,
    D: Tensor | None = None,
) -> Tensor:
    """Markov parameters `K[k] = Re(C diag(λ^k) B)` for k = 0 … length-1, with D added at k = 0.

    With `k = i b + j` this is one real matrix product of the blocks `C λ^{ib}` and `λ^j B`:
    4 N H_in H_out length flops, and tables of only about `sqrt(length)` powers. Every power is
    non-negative, so nothing overflows for any |λ| < 1.

    Args:
        decay: `-log|λ|`, (N,).
        phase: argument of λ in radians, (N,).
        B: (N, H_in), complex.
        C: (H_out, N), complex.
        length: number of lags.
        D: diagonal feed-through, (H,) with H_in = H_out = H, or None.

    Returns:
        (H_out, H_in, length), real.
    """
    (states, inputs), outputs = B.shape, C.shape[0]
    inner = math.isqrt(length - 1) + 1
    outer = -(-length // inner)
    lags = torch.arange(max(inner, outer), device=B.device)
    coarse = powers(decay, phase, lags[:outer] * inner)
    fine = powers(decay, phase, lags[:inner])
    left = C[:, None, :] * coarse.t()
    right = B[:, :, None] * fine[:, None, :]
    # Re(l r) = Re l Re r - Im l Im r, as one product over the 2N real coordinates.
    left_real = torch.view_as_real(left).reshape(outputs * outer, 2 * states)
    right_real = torch.stack((right.real, -right.imag), 1).reshape(2 * states, inputs * inner)
    kernel = linear(left_real, right_real.t()).reshape(outputs, outer, inputs, inner)
    kernel = kernel.transpose(1, 2).reshape(outputs, inputs, outer * inner)[..., :length]
    if D is None:
        return kernel
    through = torch.nn.functional.pad(torch.diag(D)[..., None], (0, length - 1))
    return kernel + through
