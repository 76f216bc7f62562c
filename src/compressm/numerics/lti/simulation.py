"""What a system puts out for given inputs, step by step.

B batch, L length, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.numerics.checks import as_double
from compressm.numerics.lti.system import StateSpace


def simulated(system: StateSpace, u: Tensor) -> Tensor:
    """y_k = C x_k + D u_k with x_k = A x_{k-1} + B u_k from a zero state.

    Args:
        system: diagonal or dense.
        u: (B, L, H_in) inputs, any dtype and device.

    Returns:
        (B, L, H_out) float64 on the CPU, the real part of C x with `real_output`.
    """
    s, u = system.double(), as_double(u)
    dtype = torch.promote_types(s.A.dtype, u.dtype)
    drive = u.transpose(0, 1).to(dtype) @ s.B.mT.to(dtype)
    x = torch.zeros(len(u), s.order, dtype=dtype, device="cpu")
    for state in drive:
        x = state.add_(x * s.A if s.is_diagonal else x @ s.A.mT)
    y = (drive @ s.C.mT.to(dtype)).transpose(0, 1)
    y = y.real if s.real_output else y
    if s.D is None:
        return y
    return y + (u * s.D if s.D.ndim == 1 else u @ s.D.mT)
