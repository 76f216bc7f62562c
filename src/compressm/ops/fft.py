"""The recurrence as one long convolution, `y_k = sum_j K[j] u_{k-j}`, by real FFTs.

Shapes: B batch, L length, H_in and H_out widths, F = n/2 + 1 frequencies of an FFT of length n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Even factors times these run fast in MKL, cuFFT and pocketfft; a plain power of two can be
# nearly twice as long as needed.
_ODD_PARTS = (1, 3, 5, 7, 9, 15, 21, 25, 27, 35, 45, 49)


def fft_length(at_least: int) -> int:
    """The smallest length not below `at_least` of the form 2^a times a small odd number.

    Odd and prime lengths are several times slower, so the power of two is at least 16 once the
    length is.
    """
    floor = 1 if at_least <= 16 else 16
    candidates = []
    for odd in _ODD_PARTS:
        n = odd * floor
        while n < at_least:
            n *= 2
        candidates.append(n)
    return min(candidates)


def _spectrum(x: Tensor, n: int) -> Tensor:
    """Real x (P, Q, T) zero-padded to n, to frequencies first, (n/2 + 1, P, Q)."""
    length = x.shape[-1]
    padded = x.new_empty(*x.shape[:-1], n)
    padded[..., :length].copy_(x)
    padded[..., length:].zero_()
    spectrum: Tensor = torch.fft.rfft(padded)
    return spectrum.permute(2, 0, 1).contiguous()


def _signal(spectrum: Tensor, n: int, length: int) -> Tensor:
    """Back from frequencies first (F, P, Q) to the first `length` samples, (P, Q, length)."""
    signal: Tensor = torch.fft.irfft(spectrum.permute(1, 2, 0), n=n)
    return signal[..., :length]


class _Convolve(torch.autograd.Function):
    """Causal convolution of u (B, L, H_in) with K (H_out, H_in, L) to y (B, L, H_out).

    Written out because autograd's own backward of `rfft` runs full complex transforms. Results
    are contiguous: whatever follows is several times slower on a permuted layout.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, kernel: Tensor) -> Tensor:
        length = u.shape[1]
        n = fft_length(2 * length - 1)
        signal, response = _spectrum(u.permute(2, 0, 1), n), _spectrum(kernel, n)
        ctx.save_for_backward(signal, response)
        ctx.lengths = (length, n)
        return _signal(torch.bmm(response, signal), n, length).permute(1, 2, 0).contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        signal, response = ctx.saved_tensors
        length, n = ctx.lengths
        grad = _spectrum(grads[0].permute(2, 0, 1), n)
        grad_u = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_u = _signal(torch.bmm(response.mH, grad), n, length)
            grad_u = grad_u.permute(1, 2, 0).contiguous()
        if ctx.needs_input_grad[1]:
            grad_kernel = _signal(torch.bmm(grad, signal.mH), n, length)
        return grad_u, grad_kernel


def convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """`y_k = sum_{j<=k} K[j] u_{k-j}`: real FFTs and one complex product per frequency.

    Memory for the backward pass: the spectra, `n/2 + 1` complex numbers (n about 2 L) for each
    of the B H_in signals and the H_in H_out kernels.

    Args:
        u: (B, L, H_in), real.
        kernel: (H_out, H_in, L), real.

    Returns:
        y, (B, L, H_out), contiguous.
    """
    y: Tensor = _Convolve.apply(u, kernel)  # type: ignore[no-untyped-call]
    return y
