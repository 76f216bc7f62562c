"""How far rounding takes a diagonal system: bounds on the H-infinity norm, mode by mode.

Mode i is R_i / (1 - z l_i) with the residue R_i = c_i b_i^T and the width w_i = 1 - |l_i|. For two
modes of about the same pole

    ||R/(1 - z l) - R'/(1 - z l')||_inf <= ||R - R'|| / w' + ||R|| |l - l'| / (w w'),

and never more than ||R|| / w + ||R'|| / w'. Sums of these over the modes bound the distance of two
systems; with `real_output` too, where the map is the mean of G(w) and conj(G(-w)).

Shapes: N states; with groups, the bound is that of the group where it is largest.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.lti.cauchy import disc_defect
from compressm.numerics.lti.system import StateSpace

_EPS = torch.finfo(torch.float64).eps
# Roundings of a pole that is computed from its logarithms: two exponentials, a sine, a product.
_POLE_ROUNDINGS = 8


def width(poles: Tensor) -> Tensor:
    """1 - |l| of complex128 poles (N,), to full relative accuracy for |l| near 1."""
    return disc_defect(poles) / (1 + poles.abs())


def mode_distance(a: StateSpace, b: StateSpace) -> float:
    """A bound on ||G_a - G_b||_inf of diagonal systems whose modes correspond, D aside.

    The scale of a state is free, and does not count.

    Raises:
        InputError: the systems are of another order, or not diagonal.
    """
    a, b = _diagonal(a), _diagonal(b)
    if a.A.shape != b.A.shape:
        raise InputError(
            f"the systems have poles {tuple(a.A.shape)} and {tuple(b.A.shape)}; "
            "expected equal shapes"
        )
    w_a, w_b = width(a.A), width(b.A)
    size_a, size_b = _residues(a), _residues(b)
    inner = (a.B.conj() * a.B).sum(-1).real
    scale = torch.where(inner > 0, (a.B.conj() * b.B).sum(-1) / inner.clamp_min(1e-300), 1.0)
    rows = (b.B - scale[..., None] * a.B).norm(dim=-1)
    columns = (a.C - scale[..., None, :] * b.C).norm(dim=-2)
    # R - R' = (c - s c') b^T + c' (s b - b')^T
    gap = columns * a.B.norm(dim=-1) + b.C.norm(dim=-2) * rows
    apart = (a.A - b.A).abs()
    near = gap / w_b + size_a * apart / (w_a * w_b)
    return float(torch.minimum(near, size_a / w_a + size_b / w_b).sum(-1).max())


def rounding_error(system: StateSpace) -> float:
    """A bound on what float64 poles and residues of a diagonal system lose, H-infinity.

    Infinite, where a pole is so close to the circle that nobody can tell its side.
    """
    s = _diagonal(system)
    w, size = width(s.A), _residues(s)
    lost = _POLE_ROUNDINGS * _EPS
    return float((size * (lost / (w * (w - lost).clamp_min(0)) + lost / w)).sum(-1).max())


def _residues(s: StateSpace) -> Tensor:
    sizes: Tensor = s.C.norm(dim=-2) * s.B.norm(dim=-1)
    return sizes


def _diagonal(system: StateSpace) -> StateSpace:
    if not system.diagonal:
        raise InputError("expected a diagonal system")
    s = system.double()
    A, B, C = (t.to(torch.complex128) for t in (s.A, s.B, s.C))
    return replace(s, A=A, B=B, C=C, D=None)
