"""Balanced truncation by the square-root method, returned in diagonal form.

V = S Vh* sigma^{-1/2}, W = R U sigma^{-1/2}, W* V = I; A_r = W* A V, B_r = W* B, C_r = C V;
then A_r is diagonalised with one complex state per conjugate pair.

Shapes: N state, n its coordinates (2N real or N), m balanced directions kept, r complex states;
G groups, or no group axis.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from compressm.errors import InputError, RankError
from compressm.numerics.checks import require_rank
from compressm.numerics.lti.cauchy import disc_defect
from compressm.numerics.lti.coordinates import (
    fold_readout,
    split_real,
    stack_state,
    unfold_readout,
)
from compressm.numerics.lti.diagonal import clamp_poles
from compressm.numerics.lti.groups import leading, take
from compressm.numerics.lti.hankel import Balancing
from compressm.numerics.lti.nested import diagonalise_leading
from compressm.numerics.lti.reduction import Reduction
from compressm.numerics.lti.system import StateSpace

Which = Literal["largest", "smallest", "random"]


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

    Groups are reduced each by itself. They come out with as many states as the largest needs; what
    a group does not use (its numerical rank is lower, it has more conjugate pairs) is zero.

    Args:
        system: the full system, diagonal or dense.
        balancing: of its Gramians; (2N) for the real map, (N) for the complex one.
        rank: complex states to keep (of each group).
        which: "largest" Hankel singular values; for ablations the "smallest" (of those above
            rounding) or a "random" choice in balanced coordinates.
        generator: for "random".
        real: reduce the real map; None infers it from the size of `balancing`.
        strict: refuse a rank above the numerical one (of every group); False returns all there is,
            with a note.

    Raises:
        InputError: sizes do not fit, or `which` is unknown.
        RankError: `rank` is more than the system numerically has, or it has no rank at all.

    Source: Chahine et al., arXiv 2510.02823, section 3; DESIGN's real pairs.
    """
    require_rank(rank)
    system = system.double()
    n = balancing.sigma.shape[-1]
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
    wanted = 2 * rank if real else rank
    kept, sizes = _choose(balancing, wanted, which, generator)
    A, B, C, V, W = _project(system, balancing, kept, sizes, real)
    found, sizes = diagonalise_leading(A, sizes, rank if real else None)
    m, stored = int(sizes.max()), int(found.states.max())
    if strict and real and stored < rank and bool((sizes == balancing.ranks).all()):
        raise _rank_error(rank, numerical, stored)
    notes = list(found.notes)
    order = fewest_directions(sizes, balancing.ranks)
    if real and order < min(wanted, numerical):
        notes.append(
            f"kept {order} real directions instead of {wanted}: each real eigenvalue takes one "
            "complex state"
        )
    if stored < rank:
        notes.append(f"{stored} complex states hold the result; {rank} were asked for")
    poles, clamped = clamp_poles(found.poles, system.poles)
    lift, project = V[..., :m] @ found.basis, found.inverse @ W[..., :m].mH
    B, C = found.inverse @ B[..., :m, :], C[..., :m] @ found.basis
    if real:
        B, C = split_real(B), fold_readout(C)
    scale = _unit_variance(poles, B)
    rows = torch.cat([scale, scale], -1) if real else scale
    return Reduction(
        system=replace(
            system, A=poles, B=B / scale[..., None], C=C * scale[..., None, :], diagonal=True
        ),
        lift=lift * rows[..., None, :],
        project=project / rows[..., None],
        rank=stored,
        used=found.states,
        order=order,
        orders=sizes,
        sigma=balancing.sigma,
        inexact=bool(found.notes or clamped),
        notes=(*notes, *clamped),
    )


def balanced_dynamics(system: StateSpace, balancing: Balancing) -> Tensor:
    """W* A V of the real map in balanced coordinates, (m, m), all directions above rounding.

    With groups (G, m, m), zero beyond what each has.
    """
    kept, sizes = _choose(balancing, balancing.sigma.shape[-1], "largest", None)
    return _project(system, balancing, kept, sizes, True)[0]


def _rank_error(asked: int, numerical: int, states: int) -> RankError:
    return RankError(
        f"rank {asked} was asked for, but the numerical rank of the system is {numerical} "
        f"directions, which {states} complex states hold; ask for at most {states}"
    )


def fewest_directions(sizes: Tensor, ranks: Tensor) -> int:
    """The fewest directions that a group keeps and has more of; all, where none has more."""
    return int(torch.where(sizes < ranks, sizes, sizes.max()).min())


def _choose(
    b: Balancing, wanted: int, which: Which, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Directions (m,) or (G, m), and how many of them count in each group."""
    sizes = b.ranks.clamp_max(wanted)
    m = int(sizes.max())
    if which == "largest":
        kept = torch.arange(m, device="cpu").expand(*sizes.shape, m)
    elif which == "smallest":
        last = b.ranks[..., None] - 1
        kept = (last - torch.arange(m, device="cpu")).clamp_min(0)
    elif which == "random":
        rows = [
            torch.randperm(rank, generator=generator, device="cpu")[:m]
            for rank in b.ranks.flatten().tolist()
        ]
        filled = [torch.nn.functional.pad(row, (0, m - len(row))) for row in rows]
        kept = torch.stack(filled).view(*sizes.shape, m)
    else:
        raise InputError(f"which is {which!r}; expected 'largest', 'smallest' or 'random'")
    return kept, sizes


def _project(
    s: StateSpace, b: Balancing, kept: Tensor, sizes: Tensor, real: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The reduced dense (A, B, C) and the bases V, W, both (n, m); zero where a group has less."""
    counts = leading(sizes, kept.shape[-1])
    root = torch.where(counts, take(b.sigma, kept, -1), torch.inf).sqrt()[..., None, :]
    V = (b.S @ take(b.Vh, kept, -2).mH) / root
    W = (b.R @ take(b.U, kept, -1)) / root
    if real:
        x = split_real(V)
        AV = stack_state(s.A[..., None] * x if s.diagonal else s.A @ x)
        return W.mH @ AV, W.mH @ stack_state(s.B), unfold_readout(s.C) @ V, V, W
    # Complex also for a real system: here a conjugate pair takes two states.
    A, B, C, V, W = (x.to(torch.complex128) for x in (s.A, s.B, s.C, V, W))
    return W.mH @ (A[..., None] * V if s.diagonal else A @ V), W.mH @ B, C @ V, V, W


def _unit_variance(poles: Tensor, B: Tensor) -> Tensor:
    """The white-noise standard deviation of each state, 1 where nothing drives it."""
    deviation = B.norm(dim=-1) / disc_defect(poles).sqrt()
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
