"""Systems made of systems: the adjoint, the joint system, the error system.

Shapes: N state, H_in inputs, H_out outputs; with G in front for systems with groups.
"""

from __future__ import annotations

from dataclasses import replace

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
    D = system.D
    if D is not None:
        D = D.conj() if system.has_gain else D.mH
    A = system.A.conj() if system.diagonal else system.A.mH
    return replace(system, A=A, B=system.C.mH, C=system.B.mH, D=D, both_ways=False)


def stack(a: StateSpace, b: StateSpace) -> StateSpace:
    """Both systems side by side on one input: state [x_a; x_b], output [y_a; y_b]."""
    a, b = _compatible(a, b)
    D = None
    if a.D is not None or b.D is not None:
        D = torch.cat([_feed_through(a), _feed_through(b)], -2)
    return _joint(a, b, C=_block_diagonal(a.C, b.C), D=D)


def difference(a: StateSpace, b: StateSpace) -> StateSpace:
    """The error system: state [x_a; x_b], output y_a - y_b."""
    a, b = _compatible(a, b)
    if a.outputs != b.outputs:
        raise InputError(f"the systems have {a.outputs} and {b.outputs} outputs; expected equal")
    D = None
    if a.D is not None or b.D is not None:
        gap = _feed_through(a) - _feed_through(b)
        D = gap if bool(gap.any()) else None
    return _joint(a, b, C=torch.cat([a.C, -b.C], -1), D=D)


def _compatible(a: StateSpace, b: StateSpace) -> tuple[StateSpace, StateSpace]:
    if a.inputs != b.inputs:
        raise InputError(f"the systems have {a.inputs} and {b.inputs} inputs; expected equal")
    if a.groups != b.groups:
        raise InputError(f"the systems have {a.groups} and {b.groups} groups; expected equal")
    if a.real_output != b.real_output:
        raise InputError("one system has real_output and the other has not; make them agree")
    a, b = a.double(), b.double()
    dtype = torch.promote_types(a.A.dtype, b.A.dtype)
    return _cast(a, dtype), _cast(b, dtype)


def _cast(s: StateSpace, dtype: torch.dtype) -> StateSpace:
    return replace(s, A=s.A.to(dtype), B=s.B.to(dtype), C=s.C.to(dtype))


def _joint(a: StateSpace, b: StateSpace, *, C: Tensor, D: Tensor | None) -> StateSpace:
    """The system of both states on one input."""
    diagonal = a.diagonal and b.diagonal
    A = torch.cat([a.A, b.A], -1) if diagonal else _block_diagonal(a.dense_A(), b.dense_A())
    return replace(a, A=A, B=torch.cat([a.B, b.B], -2), C=C, D=D, diagonal=diagonal)


def _feed_through(s: StateSpace) -> Tensor:
    D = s.dense_D()
    shape = (*s.B.shape[:-2], s.outputs, s.inputs)
    return torch.zeros(shape, dtype=torch.float64, device="cpu") if D is None else D


def _block_diagonal(a: Tensor, b: Tensor) -> Tensor:
    rows, columns = a.shape[-2:]
    joint = a.new_zeros(*a.shape[:-2], rows + b.shape[-2], columns + b.shape[-1])
    joint[..., :rows, :columns] = a
    joint[..., rows:, columns:] = b
    return joint
