"""Dense Stein equations X = A X M* + F G* by doubling.

Shapes: N and r states of the two systems, H inputs; all with groups (G, ...) in front, or none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import UnstableSystemError

# 2^64 steps of a stable recursion are done; more doublings only spread rounding errors.
_MAX_DOUBLINGS = 64


def stein(A: Tensor, F: Tensor, M: Tensor, G: Tensor) -> Tensor:
    """X = sum_k A^k F G* (M*)^k, the solution of X = A X M* + F G*, by squared Smith iteration.

    Args:
        A: (N, N), all eigenvalues inside the unit circle.
        F: (N, H).
        M: (r, r), likewise.
        G: (r, H).

    Returns:
        (N, r).

    Raises:
        UnstableSystemError: when the sum does not converge.

    Source: R. A. Smith, "Matrix equation XA + BX = C", SIAM J. Appl. Math. 16 (1968).
    """
    X = F @ G.mH
    same = A is M
    for _ in range(_MAX_DOUBLINGS):
        step = A @ X @ M.mH
        X = X + step
        if not bool(torch.isfinite(X).all()):
            break
        size, total = (t.norm(dim=(-2, -1)) for t in (step, X))
        if bool((size <= torch.finfo(torch.float64).eps * total).all()):
            return X
        A = A @ A
        M = A if same else M @ M
    raise UnstableSystemError(
        "the Stein equation did not converge: an eigenvalue of A is on the unit circle to rounding"
    )


def stein_horizon(A: Tensor, F: Tensor, M: Tensor, G: Tensor, horizon: int) -> Tensor:
    """sum_{k < horizon} A^k F G* (M*)^k by binary doubling, O(log horizon) products."""
    one = F @ G.mH
    X, A_power, M_power = torch.zeros_like(one), None, None
    for bit in bin(horizon)[2:]:
        if A_power is not None and M_power is not None:
            X = X + A_power @ X @ M_power.mH
            A_power, M_power = A_power @ A_power, M_power @ M_power
        if bit == "1":
            X = one + A @ X @ M.mH
            A_power = A if A_power is None else A @ A_power
            M_power = M if M_power is None else M @ M_power
    return X
