"""Controllability and observability Gramians.

P = A P A* + B B* and Q = A* Q A + C* C, in closed form for diagonal A, by doubling for dense A,
over all time or over a finite horizon.

Shapes: N state, r reduced state, H inputs; with G in front for systems with groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import require_square
from compressm.numerics.lti.cauchy import cross_moments
from compressm.numerics.lti.compose import adjoint
from compressm.numerics.lti.stein import stein, stein_horizon
from compressm.numerics.lti.system import StateSpace

Kind = Literal["infinite", "finite", "empirical", "gradient"]


@dataclass(frozen=True, kw_only=True)
class Gramians:
    """A pair of Gramians of one system.

    Args:
        P: controllability Gramian, (n, n), Hermitian; n = N, or 2N in real coordinates.
        Q: observability Gramian, (n, n), Hermitian.
        real: both are in the real coordinates [Re x; Im x].
        kind: "infinite" (the error bound holds), "finite", "empirical" or "gradient".
    """

    P: Tensor
    Q: Tensor
    real: bool
    kind: Kind = "infinite"

    def __post_init__(self) -> None:
        require_square("P", self.P)
        require_square("Q", self.Q, self.P.shape[-1])


def gramians(
    system: StateSpace, *, horizon: int | None = None, real_pairs: bool = True
) -> Gramians:
    """Both Gramians of `system` for white-noise inputs.

    For diagonal A: P_ij = (B B*)_ij / (1 - l_i conj(l_j)); over L steps times
    1 - (l_i conj(l_j))^L. The Gramians of the real map of a `real_output` system come from the
    complex blocks E[x x*] and E[x x^T] in closed form.

    Args:
        system: a stable system.
        horizon: sequence length L; None for infinite time.
        real_pairs: for a `real_output` system, the Gramians of the real map, (2N, 2N) real.
            False: those of the complex map, (N, N), as published.

    Raises:
        UnstableSystemError: an eigenvalue lies on or outside the unit circle.
        InputError: horizon is not a positive integer.

    Source: Chahine et al., "CompreSSM", arXiv 2510.02823, section 3; real pairs are ours.
    """
    system = system.double().require_stable()
    real = system.real_output and real_pairs
    dual = adjoint(system)
    return Gramians(
        P=cross_gramian(system, system, horizon=horizon, real=real),
        Q=cross_gramian(dual, dual, horizon=horizon, real=real),
        real=real,
        kind="infinite" if horizon is None else "finite",
    )


def cross_gramian(
    a: StateSpace, b: StateSpace, *, horizon: int | None = None, real: bool | None = None
) -> Tensor:
    """X = sum_k A_a^k B_a B_b* (A_b*)^k, the joint second moment of two states on one input.

    The cross observability Gramian is `cross_gramian(adjoint(a), adjoint(b))`. Both systems must
    be stable; this is not checked here.

    Args:
        a: system with N states.
        b: system with r states and as many inputs.
        horizon: number of steps; None for infinite time.
        real: in the real coordinates of both; None: exactly when both are `real_output`.

    Returns:
        (N, r), or (2N, 2r) real.
    """
    if horizon is not None and (not isinstance(horizon, int) or horizon < 1):
        raise InputError(f"horizon is {horizon!r}; expected a sequence length >= 1, or None")
    real = (a.real_output and b.real_output) if real is None else real
    a, b = a.double(), b.double()
    if a.diagonal and b.diagonal:
        X = cross_moments(a.A, a.B, b.A, b.B, horizon, real=real)
        return X if a.is_complex or b.is_complex else X.real
    same = a is b
    if real:
        a = a.realified()
        b = a if same else b.realified()
    A, F, M, G = a.dense_A(), a.B, b.dense_A(), b.B
    if same:
        M = A
    dtype = torch.promote_types(A.dtype, M.dtype)
    A, F, G = A.to(dtype), F.to(dtype), G.to(dtype)
    M = A if same else M.to(dtype)
    return stein(A, F, M, G) if horizon is None else stein_horizon(A, F, M, G, horizon)
