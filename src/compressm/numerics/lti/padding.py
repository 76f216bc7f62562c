"""Use all the room a reduction has: idle imaginary parts, and states left over.

A real eigenvalue takes a complex state of its own. Its imaginary part is idle then, and a balanced
truncation can end with fewer states than it may have. Neither costs anything to fill.

Shapes: N full states, r reduced states, k states added, H_in inputs, H_out outputs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compressm.errors import RankError
from compressm.numerics.lti.diagonal import unfold_readout
from compressm.numerics.lti.gramians import cross_gramian
from compressm.numerics.lti.system import StateSpace
from compressm.numerics.lti.truncation import Reduction

_ITERATIONS = 10


def padded(full: StateSpace, reduction: Reduction, rank: int) -> Reduction:
    """`reduction` with modes of `full` added until it has `rank` states; the same map.

    What is left over is best spent on modes that explain most of the remaining error: chosen are
    those of the largest ||E[e x_i*]||² / E[|x_i|²], e the output error (white-noise input). The
    added states have a zero readout, so nothing changes until a refit uses them. Optimizer
    moments of B follow exactly, those of C start at zero.

    Args:
        full: the stable diagonal system that was reduced.
        reduction: of it.
        rank: at most N.

    Raises:
        RankError: rank > N.
    """
    missing = rank - reduction.rank
    if missing <= 0:
        return reduction
    if rank > full.order:
        raise RankError(f"rank {rank} was asked for, but the system has {full.order} modes")
    full, reduced = full.double(), reduction.system.double()
    picks = _explained(full, reduced).topk(missing).indices
    extra = full.select(picks)
    system = StateSpace(
        A=torch.cat([reduced.A, extra.A]),
        B=torch.cat([reduced.B, extra.B]),
        C=torch.cat([reduced.C, torch.zeros_like(extra.C)], 1),
        D=full.D,
        real_output=full.real_output,
    )
    unit = torch.eye(full.order, dtype=reduction.lift.dtype, device="cpu")[:, picks]
    lift, project = reduction.lift, reduction.project
    blank = project.new_zeros(missing, project.shape[1])
    if full.real_output and not lift.is_complex():
        zero = torch.zeros_like(unit)
        (re, im), (top, bottom) = lift.chunk(2, 1), project.chunk(2, 0)
        lift = torch.cat([re, torch.cat([unit, zero]), im, torch.cat([zero, unit])], 1)
        project = torch.cat([top, blank, bottom, blank])
    else:
        lift, project = torch.cat([lift, unit], 1), torch.cat([project, blank])
    note = f"{missing} existing modes fill the size that real eigenvalues left over"
    return replace(
        reduction,
        system=system,
        lift=lift,
        project=project,
        rank=rank,
        notes=(*reduction.notes, note),
    )


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
    size = reduced.B.abs().amax(1)
    idle = (reduced.A.imag == 0) & (reduced.B.imag.abs().amax(1) <= 1e-12 * size) & (size > 0)
    B = reduced.B.clone()
    if bool(idle.any()):
        directions = _largest_errors(full.double(), reduced, reduced.A[idle].real)
        B[idle] = torch.complex(B[idle].real, B[idle].real.norm(dim=1)[:, None] * directions)
    C = torch.where(idle, reduced.C.real.to(reduced.C.dtype), reduced.C)
    return StateSpace(A=reduced.A, B=B, C=C, D=reduced.D, real_output=True)


def _largest_errors(full: StateSpace, reduced: StateSpace, poles: Tensor) -> Tensor:
    """Unit vectors (k, H_in) that E(pole) amplifies most, one for each pole (k,).

    By power iteration on factors, all poles at once.
    """
    systems = [(s.C, (1 - s.A[:, None] * poles).reciprocal(), s.B) for s in (full, reduced)]

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
    v = torch.nn.functional.normalize(start, dim=0)[:, None].expand(-1, len(poles))
    for _ in range(_ITERATIONS):
        new = transposed(apply(v))
        # Where nothing is left to explain at a pole, any direction will do.
        v = torch.where(new.norm(dim=0) > 0, torch.nn.functional.normalize(new, dim=0), v)
    return v.mT


def _explained(full: StateSpace, reduced: StateSpace) -> Tensor:
    """||E[e x_i*]||² / E[|x_i|²] of each mode (N,), e the output error of `reduced`."""
    P, X = cross_gramian(full, full), cross_gramian(full, reduced)
    if full.real_output:
        C, C_r = unfold_readout(full.C), unfold_readout(reduced.C)
    else:
        C, C_r = full.C, reduced.C
    error = (C @ P - C_r @ X.mH).abs().square().sum(0).view(-1, full.order).sum(0)
    variance = P.diagonal().real.view(-1, full.order).sum(0)
    floor = torch.finfo(variance.dtype).eps * variance.max()
    return torch.where(variance > floor, error / variance.clamp_min(floor), 0.0)
