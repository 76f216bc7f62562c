"""Closed-form moments of diagonal systems, accurate up to the unit circle.

A diagonal state driven by white noise has the Cauchy-like moments
E[x_i conj(z_j)] = (F G*)_ij sum_{k<L} (l_i conj(m_j))^k.  Everything here is arranged so that
no entry loses digits when |l_i| and |m_j| come close to 1.

Shapes: N and r states of the two systems, H inputs; all with groups (G, ...) in front, or none.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Veltkamp's constant 2^27 + 1 splits a float64 into two halves whose products are exact.
_SPLIT = 134217729.0
# 1 - |l|^2 of a pole that is stored in float64 carries this much rounding: below, no one can tell
# which side of the unit circle it is on.
UNIT_CIRCLE = 4 * torch.finfo(torch.float64).eps


def _square(x: Tensor) -> tuple[Tensor, Tensor]:
    """x*x as an unevaluated sum: the rounded square and its exact rounding error."""
    t = _SPLIT * x
    hi = t - (t - x)
    lo = x - hi
    square = x * x
    return square, ((hi * hi - square) + 2 * hi * lo) + lo * lo


def disc_defect(poles: Tensor) -> Tensor:
    """1 - |l|^2 of complex128 poles (N,), to full relative accuracy for |l| near 1.

    The rounded |l| alone would leave seven correct digits at |l| = 1 - 1e-9.
    """
    if not poles.is_complex():
        return (1 - poles) * (1 + poles)
    parts = torch.view_as_real(poles.resolve_conj()).abs()
    large, large_error = _square(parts.amax(-1))
    small, small_error = _square(parts.amin(-1))
    # 1 - large is exact from 1/2 upwards only; below, keep what its rounding dropped.
    rest = 1 - large
    dropped = (1 - rest) - large
    return (rest - small) + (dropped - large_error - small_error)


def geometric_sum(left: Tensor, right: Tensor, horizon: int | None = None) -> Tensor:
    """sum_{k < horizon} (l_i conj(m_j))^k for poles l (N,) and m (r,); infinite when None.

    Returns (N, r) complex128.
    """
    left, right = left.to(torch.complex128), right.to(torch.complex128)
    d_left, d_right = disc_defect(left)[..., :, None], disc_defect(right)[..., None, :]
    re, im = one_minus_product(left[..., :, None], d_left, right[..., None, :], d_right)
    denominator = torch.complex(re, im)
    if horizon is None:
        return denominator.reciprocal()
    # 1 - w^L = -expm1(L log w); the modulus of w comes from the defects, not from w itself.
    log_modulus = horizon * (torch.log1p(-d_left) + torch.log1p(-d_right)) / 2
    phase = horizon * torch.atan2(-im, 1 - re)
    half_turn = torch.sin(phase / 2)
    decay = torch.exp(log_modulus)
    real = -torch.expm1(log_modulus) + 2 * decay * half_turn.square()
    total = torch.complex(real, -decay * torch.sin(phase))
    # Of a pole on the circle with itself, every term of the sum is one.
    endless = denominator == 0
    return torch.where(endless, horizon, total / torch.where(endless, 1, denominator))


def one_minus_product(
    left: Tensor, d_left: Tensor, right: Tensor, d_right: Tensor
) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of 1 - l conj(m), of poles with their defects d = 1 - |l|^2.

    It is taken as (d_l + d_m + |l - m|^2) / 2 - i Im((l - m) conj(m)): a sum of positive terms, so
    nothing cancels in its real part.
    """
    gap = left - right
    re = (d_left + d_right + gap.real.square() + gap.imag.square()) / 2
    return re, gap.real * right.imag - gap.imag * right.real


def cross_moments(
    left: Tensor, F: Tensor, right: Tensor, G: Tensor, horizon: int | None, *, real: bool
) -> Tensor:
    """E[x z*] of two diagonal systems (l, F) and (m, G) that share a white-noise input.

    Args:
        left: poles (N,).
        F: input matrix (N, H).
        right: poles (r,).
        G: input matrix (r, H).
        horizon: number of past inputs, None for all.
        real: return E[[Re x; Im x] [Re z; Im z]^T], (2N, 2r) real, for a real input;
            else E[x z*], (N, r) complex.
    """
    hermitian = (F @ G.mH) * geometric_sum(left, right, horizon)
    if not real:
        return hermitian
    return real_blocks(hermitian, (F @ G.mT) * geometric_sum(left, right.conj(), horizon))


def real_blocks(hermitian: Tensor, plain: Tensor) -> Tensor:
    """E[[Re x; Im x] [Re z; Im z]^T] from E[x z*] and E[x z^T]: (N, r) twice to (2N, 2r)."""
    total, difference = hermitian + plain, plain - hermitian
    top = torch.cat([total.real, difference.imag], -1)
    bottom = torch.cat([total.imag, -difference.real], -1)
    return torch.cat([top, bottom], -2) / 2
