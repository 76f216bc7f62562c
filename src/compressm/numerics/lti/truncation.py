"""Balanced truncation by the square-root method, returned in diagonal form.

V = S Vh* sigma^{-1/2}, W = R U sigma^{-1/2}, W* V = I; A_r = W* A V, B_r = W* B, C_r = C V;
then A_r is diagonalised with one complex state per conjugate pair.

Shapes: N state, n its coordinates (2N real or N), m balanced directions kept, r complex states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from compressm.errors import InputError, RankError
from compressm.numerics.checks import require_rank
from compressm.numerics.lti.cauchy import disc_defect
from compressm.numerics.lti.diagonal import (
    Diagonalisation,
    clamp_poles,
    complex_states,
    diagonalise,
    fold_readout,
    split_real,
    stack_state,
    unfold_readout,
)
from compressm.numerics.lti.hankel import Balancing
from compressm.numerics.lti.system import StateSpace

Which = Literal["largest", "smallest", "random"]
# Blocks above this size are lowered in larger steps.
_LARGE = 128


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """A reduced diagonal system and the maps between the two states: z = project x, x ~ lift z.

    project lift = I, except that the Im row and column of a single real eigenvalue are zero.

    Args:
        system: the reduced diagonal system, r states.
        lift: (2N, 2r) real, in the coordinates [Re; Im], for `real_output` (selections too);
            else (N, r) complex.
        project: (2r, 2N) real, or (r, N) complex.
        rank: r, the stored complex states; may be below what was asked for, see notes.
        order: m, the number of balanced directions kept, for `truncation_bound`; None for a
            selection of modes.
        indices: the modes kept, for a selection; None otherwise.
        sigma: (n,) Hankel singular values of the full system, when they were computed.
        inexact: the result differs from a truncation by more than rounding: A was perturbed or
            is ill-conditioned, or poles were clamped.
        notes: what a reader of an event should know (clamped poles, ill-conditioning, ...).
    """

    system: StateSpace
    lift: Tensor
    project: Tensor
    rank: int
    order: int | None = None
    indices: Tensor | None = None
    sigma: Tensor | None = None
    inexact: bool = False
    notes: tuple[str, ...] = ()


def with_system(reduction: Reduction, system: StateSpace) -> Reduction:
    """The same reduction with another reduced system on the same states, say a refitted one."""
    if system.order != reduction.rank:
        raise InputError(f"system has {system.order} states; the reduction has {reduction.rank}")
    return replace(reduction, system=system)


def balanced_truncation(
    system: StateSpace,
    balancing: Balancing,
    rank: int,
    *,
    which: Which = "largest",
    generator: torch.Generator | None = None,
    real: bool | None = None,
    strict: bool = True,
) -> Reduction:
    """Reduce `system` to at most `rank` complex states.

    A real map starts from m = 2 rank balanced directions; a real eigenvalue fills a complex state
    on its own, so m is lowered until pairs + real eigenvalues fit (a note says so). Each reduced
    state is scaled to unit variance under white noise: |b_i|^2 = 1 - |l_i|^2.

    Args:
        system: the full system, diagonal or dense.
        balancing: of its Gramians; (2N) for the real map, (N) for the complex one.
        rank: complex states to keep.
        which: "largest" Hankel singular values; for ablations the "smallest" (of those above
            rounding) or a "random" choice in balanced coordinates.
        generator: for "random".
        real: reduce the real map; None infers it from the size of `balancing`.
        strict: refuse a rank above the numerical one; False returns all there is, with a note.

    Raises:
        InputError: sizes do not fit, or `which` is unknown.
        RankError: `rank` is more than the system numerically has, or it has no rank at all.

    Source: Chahine et al., arXiv 2510.02823, section 3; DESIGN's real pairs.
    """
    require_rank(rank)
    system = system.double()
    n = len(balancing.sigma)
    real = system.real_output and n == 2 * system.order if real is None else real
    if real and not system.real_output:
        raise InputError("real=True needs a system with real_output=True")
    if n != system.order * (2 if real else 1):
        raise InputError(
            f"the balancing has {n} directions; a system of order {system.order} with "
            f"real={real} needs {system.order * (2 if real else 1)}"
        )
    numerical = balancing.numerical_rank
    if rank > numerical and (strict or not numerical):
        raise _rank_error(rank, numerical, numerical)
    kept = _choose(balancing, min(2 * rank if real else rank, numerical), which, generator)
    A, B, C, V, W = _project(system, balancing, kept, real)
    found, m = _fit(A, rank, real)
    stored = len(found.poles)
    if strict and real and stored < rank and m == numerical:
        raise _rank_error(rank, numerical, stored)
    notes = list(found.notes)
    if real and m < min(2 * rank, numerical):
        notes.append(
            f"kept {m} real directions instead of {2 * rank}: each real eigenvalue takes one "
            "complex state"
        )
    if stored < rank:
        notes.append(f"{stored} complex states hold the result; {rank} were asked for")
    poles, clamped = clamp_poles(found.poles, system.poles)
    lift, project = V[:, :m] @ found.basis, found.inverse @ W[:, :m].mH
    B, C = found.inverse @ B[:m], C[:, :m] @ found.basis
    if real:
        B, C = split_real(B), fold_readout(C)
    scale = _unit_variance(poles, B)
    rows = torch.cat([scale, scale]) if real else scale
    reduced = StateSpace(
        A=poles,
        B=B / scale[:, None],
        C=C * scale,
        D=system.D,
        real_output=system.real_output,
    )
    return Reduction(
        system=reduced,
        lift=lift * rows,
        project=project / rows[:, None],
        rank=stored,
        order=m,
        sigma=balancing.sigma,
        inexact=bool(found.notes or clamped),
        notes=(*notes, *clamped),
    )


def _rank_error(asked: int, numerical: int, states: int) -> RankError:
    return RankError(
        f"rank {asked} was asked for, but the numerical rank of the system is {numerical} "
        f"directions, which {states} complex states hold; ask for at most {states}"
    )


def _choose(b: Balancing, m: int, which: Which, generator: torch.Generator | None) -> Tensor:
    if which == "largest":
        return torch.arange(m, device="cpu")
    if which == "smallest":
        return torch.arange(b.numerical_rank - 1, b.numerical_rank - 1 - m, -1, device="cpu")
    if which == "random":
        return torch.randperm(b.numerical_rank, generator=generator, device="cpu")[:m]
    raise InputError(f"which is {which!r}; expected 'largest', 'smallest' or 'random'")


def _project(
    s: StateSpace, b: Balancing, kept: Tensor, real: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The reduced dense (A, B, C) and the bases V, W, both (n, m)."""
    root = b.sigma[kept].sqrt()
    V = (b.S @ b.Vh[kept].mH) / root
    W = (b.R @ b.U[:, kept]) / root
    if real:
        x = split_real(V)
        AV = stack_state(s.A[:, None] * x if s.is_diagonal else s.A @ x)
        return W.mH @ AV, W.mH @ stack_state(s.B), unfold_readout(s.C) @ V, V, W
    # Complex also for a real system: here a conjugate pair takes two states.
    A, B, C, V, W = (x.to(torch.complex128) for x in (s.A, s.B, s.C, V, W))
    return W.mH @ (A[:, None] * V if s.is_diagonal else A @ V), W.mH @ B, C @ V, V, W


def _fit(A: Tensor, rank: int, real: bool) -> tuple[Diagonalisation, int]:
    """A leading block of A that `rank` complex states can hold, diagonalised, and its size.

    Truncations of a balanced system are nested: lowering m takes a leading block.
    """
    m = A.shape[0]
    if not real:
        return diagonalise(A), m
    # Eigenvalues alone are cheaper than a basis, and most often the first block is too large.
    excess = complex_states(torch.linalg.eigvals(A)) - rank
    while True:
        if excess > 0:
            # Each real eigenvalue is half a state too many, and most of them stay real in a smaller
            # block: twice the excess is right, where a direction more or less is of no account.
            m -= 2 * excess if m > _LARGE else excess
        found = diagonalise(A[:m, :m])
        excess = len(found.poles) - rank
        if excess <= 0:
            return found, m


def _unit_variance(poles: Tensor, B: Tensor) -> Tensor:
    """The white-noise standard deviation of each state, 1 where nothing drives it."""
    deviation = B.norm(dim=1) / disc_defect(poles).sqrt()
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
