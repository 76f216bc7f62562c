"""Use all the room a reduction has: idle imaginary parts, and states left over.

A real eigenvalue takes a complex state of its own. Its imaginary part is idle then, and a balanced
truncation can end with fewer states than it may have. Neither costs anything to fill.

Shapes: N full states, r reduced states, k states added, H_in inputs, H_out outputs; with G in front
for systems with groups.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compressm.errors import RankError
from compressm.numerics.lti.coordinates import unfold_readout
from compressm.numerics.lti.gramians import cross_gramian
from compressm.numerics.lti.groups import diagonal, take
from compressm.numerics.lti.reduction import Reduction, with_system
from compressm.numerics.lti.system import StateSpace

_ITERATIONS = 10


def padded(
    full: StateSpace, reduction: Reduction, rank: int, *, P: Tensor | None = None
) -> Reduction:
    """`reduction` with modes of `full` added until it has `rank` states; the same map.

    What is left over is best spent on modes that explain most of the remaining error: chosen are
    those of the largest ||E[e x_i*]||² / E[|x_i|²], e the output error (white-noise input). The
    added states have a zero readout, so nothing changes until a refit uses them. Optimizer
    moments of B follow exactly, those of C start at zero. Each group is filled up from the states
    that it uses itself.

    Args:
        full: the stable diagonal system that was reduced.
        reduction: of it.
        rank: at most N.
        P: the controllability Gramian of `full` where it is known, as `cross_gramian` gives it.

    Raises:
        RankError: rank > N.
    """
    r = reduction.rank
    used = torch.tensor(r, device="cpu") if reduction.used is None else reduction.used
    missing = rank - used
    most = int(missing.max())
    if most <= 0:
        return reduction
    if rank > full.order:
        raise RankError(f"rank {rank} was asked for, but the system has {full.order} modes")
    full, reduced = full.double(), reduction.system.double()
    picks = _explained(full, reduced, P).topk(most).indices
    extra = full.select(picks)
    # Of the r states and the added ones, those in use and then as many as are missing.
    place = torch.arange(rank, device="cpu")
    place = torch.where(place < used[..., None], place, place - used[..., None] + r)
    halves = 2 if full.real_output and not reduction.lift.is_complex() else 1
    system = replace(
        full,
        A=take(torch.cat([reduced.A, extra.A], -1), place, -1),
        B=take(torch.cat([reduced.B, extra.B], -2), place, -2),
        C=take(torch.cat([reduced.C, torch.zeros_like(extra.C)], -1), place, -1),
    )
    lift = torch.unflatten(reduction.lift, -1, (halves, r))
    project = torch.unflatten(reduction.project, -2, (halves, r))
    blank = project.new_zeros(*project.shape[:-2], most, project.shape[-1])
    lift = torch.cat([lift, _embedding(picks, full.order, halves, lift.dtype)], -1)
    lift = torch.cat([take(part, place, -1) for part in lift.unbind(-2)], -1)
    project = torch.cat([project, blank], -2)
    project = torch.cat([take(part, place, -2) for part in project.unbind(-3)], -2)
    note = f"{most} existing modes fill the size that real eigenvalues left over"
    return replace(
        reduction,
        system=system,
        lift=lift,
        project=project,
        rank=rank,
        used=None,
        notes=(*reduction.notes, note),
    )


def _embedding(picks: Tensor, N: int, halves: int, dtype: torch.dtype) -> Tensor:
    """States `picks` (..., k) among all N: (..., halves N, halves, k) of zeros and ones."""
    unit = torch.zeros(*picks.shape[:-1], N, picks.shape[-1], dtype=dtype, device="cpu")
    unit.scatter_(-2, picks[..., None, :], 1)
    eye = torch.eye(halves, dtype=dtype, device="cpu")
    joint = eye[:, None, :, None] * unit[..., None, :, None, :]
    return joint.flatten(-4, -3)


def with_idle_parts_driven(full: StateSpace, reduced: StateSpace) -> StateSpace:
    """`reduced` with an input for the imaginary part of every real mode; the same map.

    With λ, b and c real, the imaginary part of x = λ x + b u stays zero and no gradient ever
    reaches it, nor the phase. Driven by Im b it is a second real state at the same pole, whose
    readout Im c = 0 changes nothing until a refit or a training step uses it. Im b is the
    direction in which the remaining error is largest at that pole: the right singular vector of
    E(λ) = Re(C (I - λ A)^{-1} B) - the same of `reduced` (as in tangential interpolation;
    Gallivan, Vandendorpe, Van Dooren 2004), scaled to the norm of Re b.

    Args:
        full: the diagonal `real_output` system that was reduced.
        reduced: of it, diagonal.
    """
    if not reduced.real_output:
        return reduced
    reduced = reduced.double()
    size = reduced.B.abs().amax(-1)
    idle = (reduced.A.imag == 0) & (reduced.B.imag.abs().amax(-1) <= 1e-12 * size) & (size > 0)
    most = int(idle.sum(-1).max())
    if not most:
        return reduced
    # The idle modes of each group in front, as many as the group with most has.
    at = idle.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :most]
    chosen = idle.gather(-1, at)
    directions = _largest_errors(full.double(), reduced, reduced.A.gather(-1, at).real)
    rows = take(reduced.B, at, -2)
    driven = torch.complex(rows.real, rows.real.norm(dim=-1)[..., None] * directions)
    index = at[..., None].expand(rows.shape)
    B = reduced.B.scatter(-2, index, torch.where(chosen[..., None], driven, rows))
    C = torch.where(idle[..., None, :], reduced.C.real.to(reduced.C.dtype), reduced.C)
    return replace(reduced, B=B, C=C)


def with_driven_parts(reduction: Reduction, driven: StateSpace) -> Reduction:
    """The reduction to a system of `with_idle_parts_driven`.

    Where there is one input, the imaginary part of a real mode is a multiple of its real part, and
    `project` says so: a layer that turns the state, so that its input is one, needs both. Of
    several inputs it is another function, of which nothing is known.
    """
    found = with_system(reduction, driven)
    if driven.inputs != 1 or not driven.real_output or reduction.project.is_complex():
        return found
    b, before = driven.B[..., 0], reduction.system.B[..., 0]
    moved = (driven.A.imag == 0) & (b.imag != before.imag)
    share = torch.where(moved, b.imag / torch.where(moved, b.real, 1.0), 0.0)
    top, bottom = reduction.project.chunk(2, -2)
    bottom = torch.where(moved[..., None], share[..., None] * top, bottom)
    return replace(found, project=torch.cat([top, bottom], -2))


def _largest_errors(full: StateSpace, reduced: StateSpace, poles: Tensor) -> Tensor:
    """Unit vectors (..., k, H_in) that E(pole) amplifies most, one for each pole (..., k).

    By power iteration on factors, all poles at once.
    """
    systems = [
        (s.C, (1 - s.A[..., :, None] * poles[..., None, :]).reciprocal(), s.B)
        for s in (full, reduced)
    ]

    def apply(v: Tensor) -> Tensor:
        out = [(C @ (g * (B @ v.to(B.dtype)))).real for C, g, B in systems]
        difference: Tensor = out[0] - out[1]
        return difference

    def transposed(w: Tensor) -> Tensor:
        out = [(B.mT @ (g * (C.mT @ w.to(C.dtype)))).real for C, g, B in systems]
        difference: Tensor = out[0] - out[1]
        return difference

    generator = torch.Generator(device="cpu").manual_seed(0)
    start = torch.randn(full.inputs, dtype=torch.float64, generator=generator, device="cpu")
    start = torch.nn.functional.normalize(start, dim=0)
    v = start[:, None].expand(*poles.shape[:-1], -1, poles.shape[-1])
    for _ in range(_ITERATIONS):
        new = transposed(apply(v))
        # Where nothing is left to explain at a pole, any direction will do.
        moves = new.norm(dim=-2, keepdim=True) > 0
        v = torch.where(moves, torch.nn.functional.normalize(new, dim=-2), v)
    return v.mT


def _explained(full: StateSpace, reduced: StateSpace, P: Tensor | None) -> Tensor:
    """||E[e x_i*]||² / E[|x_i|²] of each mode (..., N), e the output error of `reduced`."""
    P = cross_gramian(full, full) if P is None else P
    X = cross_gramian(full, reduced)
    if full.real_output:
        C, C_r = unfold_readout(full.C), unfold_readout(reduced.C)
    else:
        C, C_r = full.C, reduced.C
    error = (C @ P - C_r @ X.mH).abs().square().sum(-2)
    error = torch.unflatten(error, -1, (-1, full.order)).sum(-2)
    variance = torch.unflatten(diagonal(P).real, -1, (-1, full.order)).sum(-2)
    floor = torch.finfo(variance.dtype).eps * variance.amax(-1, keepdim=True)
    safe = torch.where(floor > 0, floor, 1.0)
    return torch.where(variance > floor, error / variance.clamp_min(safe), 0.0)
