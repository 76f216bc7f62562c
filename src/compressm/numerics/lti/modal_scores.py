"""Scores of the modes of a diagonal system, each looked at as if it were alone.

Mode i is the system (l_i, row i of B, column i of C). Overlap with other modes counts for nothing
here; greedy choices and balancing are about that.

Shapes: N modes; (N,) scores, or (G, N) with groups.
"""

from __future__ import annotations

from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.lti.cauchy import disc_defect
from compressm.numerics.lti.rounding import width
from compressm.numerics.lti.system import StateSpace


def peak_scores(system: StateSpace) -> Tensor:
    """|C_i|^2 |B_i|^2 / (1 - |l_i|)^2: the squared H-infinity norm of each mode.

    Source: LAST (Gwak et al., NeurIPS 2024).
    """
    return _strength(system.require_stable()) / width(system.poles()).square()


def energy_scores(system: StateSpace) -> Tensor:
    """|C_i|^2 |B_i|^2 / (1 - |l_i|^2): the squared H2 norm of each mode.

    Source: AIRE-Prune (ICLR 2026).
    """
    return _strength(system.require_stable()) / disc_defect(system.poles())


def magnitude_scores(system: StateSpace) -> Tensor:
    """|C_i|^2 |B_i|^2: magnitude pruning, which does not see how long a mode remembers."""
    return _strength(system)


def _strength(system: StateSpace) -> Tensor:
    if not system.diagonal:
        raise InputError("scores of modes need a diagonal system; diagonalise it first")
    s = system.double()
    return s.C.abs().square().sum(-2) * s.B.abs().square().sum(-1)
