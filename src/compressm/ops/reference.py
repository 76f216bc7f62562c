"""The obvious sequential loop, in float64: slow, and the oracle of every fast operator.

Shapes: B batch, L length, H width, N state.
"""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_ssm_reference(
    u: Tensor,
    decay: Tensor,
    phase: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`x_k = λ x_{k-1} + B u_k`, `y_k = Re(C x_k) + D u_k`, one step after the other.

    Everything is converted to float64 / complex128; differentiable by autograd. The arguments
    are those of `compressm.ops.diagonal_ssm`.

    Returns:
        y (B, L, H), float64, and the last state (B, N), complex128.
    """
    u = u.double()
    B, C = B.to(torch.complex128), C.to(torch.complex128)
    lam = torch.exp(torch.complex(-decay.double(), phase.double()))
    x = u.new_zeros(u.shape[0], lam.shape[0]) if state is None else state
    x = x.to(torch.complex128)
    outputs = []
    for u_k in u.unbind(1):
        x = lam * x + u_k.to(torch.complex128) @ B.t()
        y_k = (x @ C.t()).real
        outputs.append(y_k if D is None else y_k + D.double() * u_k)
    return torch.stack(outputs, 1), x
