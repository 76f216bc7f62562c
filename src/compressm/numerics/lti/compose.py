"""Systems made of systems: the adjoint, the joint system, the error system.

Shapes: N state, H_in inputs, H_out outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.lti.system import StateSpace


def adjoint(system: StateSpace) -> StateSpace:
    """The adjoint system (A*, C*, B*, D*).

    Its controllability Gramian is the observability Gramian of `system`. Driven by the
    time-reversed output gradients dLoss/dy, its states are g = dLoss/dx in reversed time (for
    complex x in torch's convention, dLoss/dRe x + i dLoss/dIm x).
    """
    return StateSpace(
        A=system.A.conj() if system.is_diagonal else system.A.mH,
        B=system.C.mH,
        C=system.B.mH,
        D=None if system.D is None else (system.D.conj() if system.D.ndim == 1 else system.D.mH),
        real_output=system.real_output,
    )


def stack(a: StateSpace, b: StateSpace) -> StateSpace:
    """Both systems side by side on one input: state [x_a; x_b], output [y_a; y_b]."""
    a, b = _compatible(a, b)
    D = None
    if a.D is not None or b.D is not None:
        D = torch.cat([_feed_through(a), _feed_through(b)])
    return StateSpace(
        A=_joint_A(a, b),
        B=torch.cat([a.B, b.B]),
        C=_block_diagonal(a.C, b.C),
        D=D,
        real_output=a.real_output,
    )


def difference(a: StateSpace, b: StateSpace) -> StateSpace:
    """The error system: state [x_a; x_b], output y_a - y_b."""
    a, b = _compatible(a, b)
    if a.outputs != b.outputs:
        raise InputError(f"the systems have {a.outputs} and {b.outputs} outputs; expected equal")
    D = None
    if a.D is not None or b.D is not None:
        gap = _feed_through(a) - _feed_through(b)
        D = gap if bool(gap.any()) else None
    return StateSpace(
        A=_joint_A(a, b),
        B=torch.cat([a.B, b.B]),
        C=torch.cat([a.C, -b.C], 1),
        D=D,
        real_output=a.real_output,
    )


def _compatible(a: StateSpace, b: StateSpace) -> tuple[StateSpace, StateSpace]:
    if a.inputs != b.inputs:
        raise InputError(f"the systems have {a.inputs} and {b.inputs} inputs; expected equal")
    if a.real_output != b.real_output:
        raise InputError("one system has real_output and the other has not; make them agree")
    a, b = a.double(), b.double()
    dtype = torch.promote_types(a.A.dtype, b.A.dtype)
    return _cast(a, dtype), _cast(b, dtype)


def _cast(s: StateSpace, dtype: torch.dtype) -> StateSpace:
    return StateSpace(
        A=s.A.to(dtype), B=s.B.to(dtype), C=s.C.to(dtype), D=s.D, real_output=s.real_output
    )


def _joint_A(a: StateSpace, b: StateSpace) -> Tensor:
    if a.is_diagonal and b.is_diagonal:
        return torch.cat([a.A, b.A])
    return _block_diagonal(a.dense_A(), b.dense_A())


def _feed_through(s: StateSpace) -> Tensor:
    D = s.dense_D()
    return torch.zeros(s.outputs, s.inputs, dtype=torch.float64, device="cpu") if D is None else D


def _block_diagonal(a: Tensor, b: Tensor) -> Tensor:
    joint = a.new_zeros(a.shape[0] + b.shape[0], a.shape[1] + b.shape[1])
    joint[: a.shape[0], : a.shape[1]] = a
    joint[a.shape[0] :, a.shape[1] :] = b
    return joint
