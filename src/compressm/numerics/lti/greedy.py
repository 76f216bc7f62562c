"""Greedy choice of existing modes (orthogonal matching pursuit in the H2 sense).

With P the second moment of the state, the best readout of the kept states S leaves the output
energy tr(C P C*) - tr(C P[:,S] P[S,S]^{-1} P[S,:] C*); modes are picked one by one to minimise it.

Shapes: N modes, n = g N coordinates (g = 2 in real coordinates, else 1), H outputs, r picks;
G groups, each of which picks for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import InputError, RankError
from compressm.numerics.checks import as_double, require_finite, require_rank, require_square
from compressm.numerics.lti.coordinates import unfold_readout
from compressm.numerics.lti.groups import diagonal
from compressm.numerics.lti.system import StateSpace

# A direction with less than this share of its variance left is explained by the picks. To use the
# rest, a readout would need entries some 10^4 times larger, which no float32 layer survives.
_REDUNDANT = 1e-9


@dataclass(frozen=True, kw_only=True)
class ModeOrder:
    """Modes in the order in which the greedy search picked them.

    Args:
        indices: (r,) or (G, r) int64.
        residual: (r,) or (G, r) output energy that the best readout of the first k+1 picks leaves.
        total: () or (G,) output energy tr(C P C*) of the full system.
    """

    indices: Tensor
    residual: Tensor
    total: Tensor


def greedy_modes(system: StateSpace, P: Tensor, rank: int) -> ModeOrder:
    """Pick `rank` modes of a diagonal system, of each of its groups.

    An incremental pivoted Cholesky: O(N r (r + H)) in all, the N x N Schur complement is never
    formed. When nothing is left to gain (zero C, redundant modes), the remaining picks are those
    of the largest variance.

    Args:
        system: diagonal.
        P: second moment of its state, closed form or empirical: (2N, 2N) in real coordinates for
            `real_output`, each mode then being a pair of directions; (N, N) otherwise. With G in
            front for groups.
        rank: number of modes.

    Raises:
        InputError: the system is dense or P has another size.
        RankError: rank > N.

    Source: DESIGN section 3; Pati et al. (1993) for orthogonal matching pursuit.
    """
    require_rank(rank)
    if not system.diagonal:
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
        left = (left - gain).clamp_min(0)
        picks.append(pick)
        residual.append(left)
    return ModeOrder(
        indices=torch.stack(picks, -1), residual=torch.stack(residual, -1), total=search.total
    )


class _Search:
    """The state of one greedy search: conditional variances and readouts given the picks."""

    def __init__(self, P: Tensor, C: Tensor, g: int, rank: int) -> None:
        self.P, self.g, self.N = P, g, P.shape[-1] // g
        self.read = (C.to(P.dtype) if not C.is_complex() else C) @ P  # E[y x*] given the picks
        self.total = (self.read * C.conj()).sum((-2, -1)).real.clamp_min(0)
        self.variance = diagonal(P).real.clone()
        self.floor = _REDUNDANT * self.variance.abs()
        half = P.diagonal(self.N, dim1=-2, dim2=-1)
        self.covariance = half.clone() if g == 2 else None
        self.factor = P.new_zeros(*P.shape[:-1], g * rank)
        self.used = 0
        self.open = torch.ones(*P.shape[:-2], self.N, dtype=torch.bool, device="cpu")

    def next(self) -> tuple[Tensor, Tensor]:
        """Pick the mode that captures most output energy; returns it and that energy."""
        gains = self._gains()
        gains[~self.open] = -1.0
        pick = gains.argmax(-1)
        gain = gains.gather(-1, pick[..., None]).squeeze(-1)
        spread = torch.unflatten(self.variance, -1, (self.g, self.N)).sum(-2)
        spare = torch.where(self.open, spread, -torch.inf).argmax(-1)
        pick, gain = torch.where(gain > 0, pick, spare), gain.clamp_min(0)
        self.open.scatter_(-1, pick[..., None], False)
        directions = torch.stack([pick + k * self.N for k in range(self.g)], -1)
        variances = self.variance.gather(-1, directions)
        order = variances.argsort(dim=-1, descending=True, stable=True)
        for direction in directions.gather(-1, order).unbind(-1):
            self._condition_on(direction)
        return pick, gain

    def _gains(self) -> Tensor:
        energy = self.read.abs().square().sum(-2)
        if self.covariance is None:
            return _ratio(energy, self.variance, self.floor)
        e1, e2 = energy.chunk(2, -1)
        v1, v2 = self.variance.chunk(2, -1)
        f1, f2 = self.floor.chunk(2, -1)
        N, cov = self.N, self.covariance
        overlap = (self.read[..., :N] * self.read[..., N:]).sum(-2)
        # Two steps of Gram-Schmidt inside the pair, the larger direction first.
        swap = v2 > v1
        e1, e2 = torch.where(swap, e2, e1), torch.where(swap, e1, e2)
        v1, v2 = torch.where(swap, v2, v1), torch.where(swap, v1, v2)
        f1, f2 = torch.where(swap, f2, f1), torch.where(swap, f1, f2)
        slope = _ratio(cov, v1, f1)
        rest = e2 - 2 * slope * overlap + slope.square() * e1
        return _ratio(e1, v1, f1) + _ratio(rest.clamp_min(0), v2 - slope * cov, f2)

    def _condition_on(self, direction: Tensor) -> None:
        """One step of Cholesky with these pivots; nothing happens to a redundant direction."""
        at = direction[..., None]
        variance = self.variance.gather(-1, at)
        useful = variance > self.floor.gather(-1, at)
        if not bool(useful.any()):
            return
        root = torch.where(useful, variance, torch.inf).sqrt()
        L = self.factor[..., : self.used]
        row = L.gather(-2, at[..., None].expand(*at.shape, self.used)).squeeze(-2)
        pivot = self.P.gather(-1, at[..., None, :].expand(*self.P.shape[:-1], 1)).squeeze(-1)
        column = (pivot - _apply(L, row.conj())) / root
        read = self.read.gather(-1, at[..., None, :].expand(*self.read.shape[:-1], 1))
        self.read = self.read - (read / root[..., None]) * column.conj()[..., None, :]
        self.variance = self.variance - column.abs().square()
        if self.covariance is not None:
            self.covariance = self.covariance - column[..., : self.N] * column[..., self.N :]
        self.factor[..., self.used] = column
        self.used += 1


def _apply(L: Tensor, v: Tensor) -> Tensor:
    """Each matrix times its vector."""
    return L @ v if v.ndim == 1 else (L @ v[..., None]).squeeze(-1)


def _ratio(top: Tensor, bottom: Tensor, floor: Tensor) -> Tensor:
    """top / bottom, and 0 where bottom is rounding."""
    safe = bottom > floor
    return torch.where(safe, top / torch.where(safe, bottom, 1.0), 0.0)
