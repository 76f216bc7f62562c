"""What a system puts out for given inputs, step by step.

B batch, L length, H width, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.numerics.checks import as_double
from compressm.numerics.lti.groups import join_channels, split_channels
from compressm.numerics.lti.system import StateSpace


def simulated(system: StateSpace, u: Tensor) -> Tensor:
    """y_k = C x_k + D u_k with x_k = A x_{k-1} + B u_k from a zero state.

    Args:
        system: diagonal or dense.
        u: (B, L, H_in) inputs, any dtype and device; (B, L, G H_in) with groups.

    Returns:
        (B, L, H_out) float64 on the CPU, the real part of C x with `real_output`; (B, L, G H_out).
    """
    s = system.double()
    u = split_channels(as_double(u), s.groups)
    dtype = torch.promote_types(s.A.dtype, u.dtype)
    states = driven_states(s, applied(s.B, u.transpose(0, 1).to(dtype)))
    y = applied(s.C, states).transpose(0, 1)
    y = y.real if s.real_output else y
    if s.D is not None:
        y = y + (u * s.D if s.has_gain else applied(s.D, u))
    return join_channels(y, s.groups)


def applied(matrix: Tensor, x: Tensor) -> Tensor:
    """M x of vectors x (..., n), or (..., G, n) with M (G, m, n)."""
    matrix = matrix.to(torch.promote_types(matrix.dtype, x.dtype))
    if matrix.ndim == 2:
        return x.to(matrix.dtype) @ matrix.mT
    return torch.einsum("gmn,...gn->...gm", matrix, x.to(matrix.dtype))


def driven_states(s: StateSpace, drive: Tensor, start: Tensor | None = None) -> Tensor:
    """x_k = A x_{k-1} + v_k of v (L, B, [G,] N), which is overwritten; from zero, or `start`."""
    x = torch.zeros_like(drive[0]) if start is None else start
    for state in drive:
        x = state.add_(x * s.A if s.diagonal else applied(s.A, x))
    return drive
