"""Greedy selection of existing modes (orthogonal matching pursuit in the H2 sense).

With P the second moment of the state, the best readout of the kept states S leaves the output
energy tr(C P C*) - tr(C P[:,S] P[S,S]^{-1} P[S,:] C*); modes are picked one by one to minimise it.

Shapes: N modes, n = g N coordinates (g = 2 in real coordinates, else 1), H outputs, r picks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import InputError, RankError
from compressm.numerics.checks import as_double, require_finite, require_rank, require_square
from compressm.numerics.lti.diagonal import fold_readout, unfold_readout
from compressm.numerics.lti.refit import DATA_RIDGE, psd_solve
from compressm.numerics.lti.system import StateSpace
from compressm.numerics.lti.truncation import Reduction

# A direction with less than this share of its variance left is explained by the picks. To use the
# rest, a readout would need entries some 10^4 times larger, which no float32 layer survives.
_REDUNDANT = 1e-9


@dataclass(frozen=True, kw_only=True)
class ModeOrder:
    """Modes in the order in which the greedy search picked them.

    Args:
        indices: (r,) int64.
        residual: (r,) output energy that the best readout of the first k+1 picks leaves.
        total: output energy tr(C P C*) of the full system.
    """

    indices: Tensor
    residual: Tensor
    total: float


def greedy_modes(system: StateSpace, P: Tensor, rank: int) -> ModeOrder:
    """Pick `rank` modes of a diagonal system.

    An incremental pivoted Cholesky: O(N r (r + H)) in all, the N x N Schur complement is never
    formed. When nothing is left to gain (zero C, redundant modes), the remaining picks are those
    of the largest variance.

    Args:
        system: diagonal.
        P: second moment of its state, closed form or empirical: (2N, 2N) in real coordinates for
            `real_output`, each mode then being a pair of directions; (N, N) otherwise.
        rank: number of modes.

    Raises:
        InputError: the system is dense or P has another size.
        RankError: rank > N.

    Source: DESIGN section 3; Pati et al. (1993) for orthogonal matching pursuit.
    """
    require_rank(rank)
    if not system.is_diagonal:
        raise InputError("greedy_modes() needs a diagonal system; diagonalise it first")
    s, N = system.double(), system.order
    g = 2 if s.real_output else 1
    require_square("P", P, g * N)
    require_finite("P", P)
    if rank > N:
        raise RankError(f"rank {rank} was asked for, but the system has {N} modes")
    P = as_double(P)
    C = unfold_readout(s.C) if g == 2 else s.C
    search = _Search(P, C, g, rank)
    picks, residual, left = [], [], search.total
    for _ in range(rank):
        pick, gain = search.next()
        left = max(left - gain, 0.0)
        picks.append(pick)
        residual.append(left)
    return ModeOrder(
        indices=torch.tensor(picks, device="cpu"),
        residual=torch.tensor(residual, dtype=torch.float64, device="cpu"),
        total=search.total,
    )


class _Search:
    """The state of one greedy search: conditional variances and readouts given the picks."""

    def __init__(self, P: Tensor, C: Tensor, g: int, rank: int) -> None:
        self.P, self.g, self.N = P, g, P.shape[0] // g
        self.read = (C.to(P.dtype) if not C.is_complex() else C) @ P  # E[y x*] given the picks
        self.total = max(float((self.read * C.conj()).sum().real), 0.0)
        self.variance = P.diagonal().real.clone()
        self.floor = _REDUNDANT * self.variance.abs()
        half = self.N
        self.covariance = P.diagonal(half).clone() if g == 2 else None
        self.factor = P.new_zeros(P.shape[0], g * rank)
        self.used = 0
        self.open = torch.ones(self.N, dtype=torch.bool, device="cpu")

    def next(self) -> tuple[int, float]:
        """Pick the mode that captures most output energy; returns it and that energy."""
        gains = self._gains()
        gains[~self.open] = -1.0
        pick = int(gains.argmax())
        gain = float(gains[pick])
        if gain <= 0:
            spread = self.variance.view(self.g, self.N).sum(0)
            pick, gain = int(torch.where(self.open, spread, -torch.inf).argmax()), 0.0
        self.open[pick] = False
        directions = [pick + k * self.N for k in range(self.g)]
        for direction in sorted(directions, key=lambda d: -float(self.variance[d])):
            self._condition_on(direction)
        return pick, gain

    def _gains(self) -> Tensor:
        energy = self.read.abs().square().sum(0)
        if self.covariance is None:
            return _ratio(energy, self.variance, self.floor)
        (e1, e2), (v1, v2) = energy.view(2, -1), self.variance.view(2, -1)
        f1, f2 = self.floor.view(2, -1)
        N, cov = self.N, self.covariance
        overlap = (self.read[:, :N] * self.read[:, N:]).sum(0)
        # Two steps of Gram-Schmidt inside the pair, the larger direction first.
        swap = v2 > v1
        e1, e2 = torch.where(swap, e2, e1), torch.where(swap, e1, e2)
        v1, v2 = torch.where(swap, v2, v1), torch.where(swap, v1, v2)
        f1, f2 = torch.where(swap, f2, f1), torch.where(swap, f1, f2)
        slope = _ratio(cov, v1, f1)
        rest = e2 - 2 * slope * overlap + slope.square() * e1
        return _ratio(e1, v1, f1) + _ratio(rest.clamp_min(0), v2 - slope * cov, f2)

    def _condition_on(self, direction: int) -> None:
        """One step of Cholesky with this pivot; nothing happens to a redundant direction."""
        variance = float(self.variance[direction])
        if variance <= float(self.floor[direction]):
            return
        L = self.factor[:, : self.used]
        column = (self.P[:, direction] - L @ L[direction].conj()) / variance**0.5
        self.read = self.read - torch.outer(self.read[:, direction] / variance**0.5, column.conj())
        self.variance = self.variance - column.abs().square()
        if self.covariance is not None:
            self.covariance = self.covariance - column[: self.N] * column[self.N :]
        self.factor[:, self.used] = column
        self.used += 1


def _ratio(top: Tensor, bottom: Tensor, floor: Tensor) -> Tensor:
    """top / bottom, and 0 where bottom is rounding."""
    safe = bottom > floor
    return torch.where(safe, top / torch.where(safe, bottom, 1.0), 0.0)


def mode_reduction(
    system: StateSpace, P: Tensor | None, indices: Tensor, *, ridge: float = DATA_RIDGE
) -> Reduction:
    """Keep the modes `indices` exactly and refit the readout: C' = C P[:,S] P[S,S]^{-1}.

    lambda and the rows of B stay as they are. The ridge pulls C' towards C[:, S], relative to
    the mean variance of the kept states. With P the lift is P[:,S] P[S,S]^{-1}, the least-squares
    estimate of the full state; without P there is no refit and the lift embeds the kept states.
    Optimizer moments of a selection are best indexed with `indices`.

    Args:
        system: diagonal.
        P: second moment of the state, as in `greedy_modes`; None: C' = C[:, S].
        indices: (r,) distinct modes.
        ridge: relative ridge, >= 0.

    Raises:
        InputError: sizes or indices are unusable.
    """
    indices = _checked(system, indices)
    s, N = system.double(), system.order
    reduced = s.select(indices)
    pairs = s.real_output
    columns = torch.cat([indices, indices + N]) if pairs else indices
    n, r = N * (2 if pairs else 1), len(indices)
    dtype = torch.float64 if pairs else s.A.dtype
    embed = torch.zeros(n, len(columns), dtype=dtype, device="cpu")
    embed[columns, torch.arange(len(columns), device="cpu")] = 1
    lift = embed
    if P is not None:
        require_square("P", P, n)
        require_finite("P", P)
        P = as_double(P)
        cross, moment = P[:, columns], P[columns][:, columns]
        lift = embed + psd_solve(moment, cross - embed.to(P.dtype) @ moment, ridge)
        C = fold_readout(unfold_readout(s.C) @ lift) if pairs else s.C.to(lift.dtype) @ lift
        reduced = StateSpace(A=reduced.A, B=reduced.B, C=C, D=s.D, real_output=pairs)
    return Reduction(system=reduced, lift=lift, project=embed.mT, rank=r, indices=indices)


def _checked(system: StateSpace, indices: Tensor) -> Tensor:
    if not system.is_diagonal:
        raise InputError("mode_reduction() needs a diagonal system; diagonalise it first")
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise InputError(
            f"indices has shape {tuple(indices.shape)} and dtype {indices.dtype}; expected (r,) int"
        )
    indices = indices.detach().to(device="cpu", dtype=torch.int64)
    distinct = set(indices.tolist())
    if not distinct <= set(range(system.order)) or not 0 < len(indices) == len(distinct):
        raise InputError(
            f"indices are {indices.tolist()}; expected distinct modes in 0..{system.order - 1}"
        )
    return indices
