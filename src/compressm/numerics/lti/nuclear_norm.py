"""The Hankel nuclear norm as a function of a system that gradients can follow.

Everything else in `numerics` detaches what comes in; here the graph is kept, from the poles, the
input matrix and the readout to the sum of the Hankel singular values.

Shapes: N states, H inputs and outputs, n coordinates (2N real or N); G groups in front, or none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressm.numerics.lti.cauchy import cross_moments
from compressm.numerics.lti.compose import adjoint
from compressm.numerics.lti.groups import leading
from compressm.numerics.lti.hankel import balance
from compressm.numerics.lti.system import StateSpace


def hankel_nuclear_norm(system: StateSpace) -> Tensor:
    """sum_i sigma_i of a diagonal system, of all groups together, as a scalar with a gradient.

    For a `real_output` system these are the singular values of its real map. The sum is
    tr((P^{1/2} Q P^{1/2})^{1/2}). With the maps W = R U Sigma^{-1/2} and V = S V Sigma^{-1/2} of
    balancing, d sigma_i = (w_i* dP w_i + v_i* dQ v_i) / 2: nothing is divided by a difference of
    singular values, so repeated ones are harmless, and those at rounding level have gradient zero.

    Args:
        system: stable and diagonal, complex128 on the CPU; its tensors may require a gradient.

    Raises:
        UnstableSystemError: an eigenvalue lies on or outside the unit circle.

    Source: the penalty of Forgione, Mejari and Piga (arXiv 2403.14833), and of HSVR (NeurIPS 2025);
    the derivative is that of a simple eigenvalue of P Q.
    """
    system.require_stable()
    real, dual = system.real_output, adjoint(system)
    P, Q = (cross_moments(s.A, s.B, s.A, s.B, None, real=real) for s in (system, dual))
    total: Tensor = _SumOfSingularValues.apply(P, Q, real)  # type: ignore[no-untyped-call]
    return total


class _SumOfSingularValues(torch.autograd.Function):
    """sum sigma_i of the Gramians P and Q, (n, n) or (G, n, n)."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, Q: Tensor, pairs: bool) -> Tensor:
        found = balance(P, Q, pairs=pairs)
        sigma = found.sigma[..., : found.U.shape[-1]]
        above = leading(found.ranks, sigma.shape[-1])
        roots = torch.where(above, sigma.clamp_min(torch.finfo(sigma.dtype).tiny), 1).rsqrt()
        roots = torch.where(above, roots, 0)[..., None, :]
        ctx.save_for_backward((found.R @ found.U) * roots, (found.S @ found.Vh.mH) * roots)
        return sigma.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        W, V = ctx.saved_tensors
        return grads[0] / 2 * (W @ W.mH), grads[0] / 2 * (V @ V.mH), None
