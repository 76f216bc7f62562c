"""`channel_ssm`: one single-input single-output diagonal system for each channel.

Shapes: B batch, L length, H channels, N states of each channel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.ops.empty import of_no_sequence
from compressm.ops.fft import fft_length


def channel_ssm(
    u: Tensor, decay: Tensor, phase: Tensor, C_re: Tensor, C_im: Tensor, D: Tensor | None = None
) -> Tensor:
    """`x_k = λ x_{k-1} + u_k`, `y_k = Re(Σ_n c_n x_k[n]) + D u_k` in every channel.

    With `λ = exp(-decay + i phase)`. Only the products of input and output weights of a state
    matter, so c holds them both. Computed as one long convolution with the impulse responses.

    Differentiable in every tensor, once. Half-precision inputs are computed in float32.

    Args:
        u: (B, L, H), real.
        decay: `-log|λ|`, (H, N), not negative.
        phase: argument of λ in radians, (H, N).
        C_re, C_im: c, (H, N).
        D: (H,), or None.

    Returns:
        y, (B, L, H), of u's type.

    Raises:
        InputError: an empty sequence, or channels that do not fit.
    """
    if u.dim() != 3 or u.shape[1] == 0 or u.shape[-1] != decay.shape[0]:
        raise InputError(
            f"u must be (batch, length >= 1, {decay.shape[0]} channels), got {tuple(u.shape)}"
        )
    if u.shape[0] == 0:
        return of_no_sequence(u, decay, phase, C_re, C_im, D)
    exact = torch.float64 if torch.float64 in (u.dtype, decay.dtype) else torch.float32
    with torch.autocast(u.device.type, enabled=False):
        weights = torch.complex(C_re.to(exact), C_im.to(exact))
        kernel = channel_responses(decay.to(exact), phase.to(exact), weights, u.shape[1])
        if D is not None:
            kernel = torch.cat([kernel[:, :1] + D.to(exact)[:, None], kernel[:, 1:]], 1)
        y: Tensor = _Convolve.apply(u.to(exact), kernel)  # type: ignore[no-untyped-call]
    return y.to(u.dtype)


def channel_responses(decay: Tensor, phase: Tensor, C: Tensor, length: int) -> Tensor:
    """`Re Σ_n c_n λ_n^k` for k = 0 … length - 1, (H, length), by one matrix product a channel.

    With k = i b + j the powers are products of two tables of about sqrt(length) rows each. All
    exponents are non-negative, and formed in float64.
    """
    inner = math.isqrt(length - 1) + 1
    outer = -(-length // inner)
    rate = torch.complex(-decay.double(), phase.double())
    lags = torch.arange(max(inner, outer), device=decay.device, dtype=torch.float64)
    coarse = torch.exp(rate[:, None, :] * (inner * lags[:outer, None])).to(C.dtype)
    fine = torch.exp(rate[:, :, None] * lags[:inner]).to(C.dtype)
    left, right = torch.view_as_real(C[:, None, :] * coarse), torch.view_as_real(fine)
    # Re(l r) = Re l Re r - Im l Im r.
    left = torch.cat([left[..., 0], -left[..., 1]], -1)
    right = torch.cat([right[..., 0], right[..., 1]], 1)
    return torch.bmm(left, right).flatten(1)[:, :length]


class _Convolve(torch.autograd.Function):
    """Causal convolution of u (B, L, H) with the responses (H, L).

    Written out because autograd's own backward of `rfft` runs full complex transforms.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, kernel: Tensor) -> Tensor:
        n = fft_length(2 * u.shape[1] - 1)
        signal, response = torch.fft.rfft(u.transpose(1, 2), n=n), torch.fft.rfft(kernel, n=n)
        ctx.save_for_backward(signal, response)
        ctx.lengths = (u.shape[1], n)
        return _back(signal * response, ctx.lengths)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        signal, response = ctx.saved_tensors
        length, n = ctx.lengths
        grad = torch.fft.rfft(grads[0].transpose(1, 2), n=n)
        grad_u = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_u = _back(grad * response.conj(), ctx.lengths)
        if ctx.needs_input_grad[1]:
            summed = torch.einsum("bhf,bhf->hf", grad, signal.conj())
            grad_kernel = torch.fft.irfft(summed, n=n)[..., :length]
        return grad_u, grad_kernel


def _back(spectrum: Tensor, lengths: tuple[int, int]) -> Tensor:
    length, n = lengths
    signal: Tensor = torch.fft.irfft(spectrum, n=n)
    return signal[..., :length].transpose(1, 2).contiguous()
