"""Few terms of a sum that stand for all of it (orthogonal matching pursuit on a Gram matrix).

The target is Z 1 = sum_n z_n, the terms are its own summands, and all that is known of them is
M = E[Z^T Z], M_nm = E<z_n, z_m>. Keeping the terms S with weights w leaves
E||Z 1 - Z_S w||^2 = 1'M1 - 2 w'M_S 1 + w'M_SS w.

Shapes: N terms, r kept terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import RankError
from compressm.numerics.checks import as_double, require_finite, require_rank, require_square
from compressm.numerics.lti.refit import psd_solve

# A term with less than this share of its energy left is a combination of those picked already.
_REDUNDANT = 1e-9
# Weights that stand for many correlated terms are well determined; those of a nearly redundant one
# are not, and would be large and opposed.
WEIGHT_RIDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class TermOrder:
    """Terms in the order in which a search picked them.

    Args:
        indices: (r,) int64.
        residual: (r,) energy of the target that the first k+1 picks leave.
        total: energy 1'M1 of the target.
    """

    indices: Tensor
    residual: Tensor
    total: float


def greedy_terms(M: Tensor, rank: int, *, weighted: bool = True) -> TermOrder:
    """Pick `rank` terms one by one, each time with the least energy left.

    With weights, the kept terms take their best weights after every pick (an incremental pivoted
    Cholesky, O(N r^2) in all); where nothing is left to gain, the largest terms follow. Without,
    terms count as they are and are taken away one by one, each time the one whose loss costs least,
    so that terms which matter only together stay together; the order is that in reverse.

    Args:
        M: (N, N) Gram matrix of the terms, symmetric positive semidefinite.
        rank: number of terms.
        weighted: whether the kept terms may be weighted.

    Raises:
        InputError: M is not square or not finite, or `rank` is below 1.
        RankError: rank > N.

    Source: DESIGN section 4; Pati et al. (1993) for orthogonal matching pursuit.
    """
    M = _checked(M, rank)
    total = float(M.sum())
    indices, residual = (_pursue if weighted else _take_away)(M, rank)
    return TermOrder(indices=indices, residual=residual.clamp_min(0), total=max(total, 0.0))


def ranked_terms(M: Tensor, scores: Tensor, rank: int) -> TermOrder:
    """The `rank` terms of the largest scores, and what they leave at weight 1.

    Args:
        M: as for `greedy_terms`.
        scores: (N,) finite.
        rank: number of terms.
    """
    M = _checked(M, rank)
    require_finite("scores", scores)
    indices = torch.argsort(scores.detach().cpu().double(), descending=True, stable=True)[:rank]
    missing = torch.ones(M.shape[0], dtype=torch.float64, device="cpu")
    residual = []
    for pick in indices.tolist():
        missing[pick] = 0
        residual.append(missing @ M @ missing)
    return TermOrder(
        indices=indices,
        residual=torch.stack(residual).clamp_min(0),
        total=max(float(M.sum()), 0.0),
    )


def term_weights(M: Tensor, indices: Tensor, *, ridge: float = WEIGHT_RIDGE) -> Tensor:
    """The weights w of the kept terms that leave the least energy.

    The ridge, relative to the mean energy of the kept terms, pulls towards w = 1, so terms that
    lose nothing keep their weight.

    Args:
        M: as for `greedy_terms`.
        indices: (r,) kept terms.
        ridge: >= 0.

    Returns:
        (r,) float64.
    """
    M = _checked(M)
    indices = indices.cpu()
    kept = M[indices][:, indices]
    short = M[indices].sum(1) - kept.sum(1)
    return 1.0 + psd_solve(kept, short[None, :], ridge)[0]


def _pursue(M: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    N = M.shape[0]
    variance, read, energy = M.diagonal().clone(), M.sum(1), M.sum()
    floor = _REDUNDANT * variance
    factor = M.new_zeros(N, rank)
    free = torch.ones(N, dtype=torch.bool, device="cpu")
    picks, residual, used = [], [], 0
    for _ in range(rank):
        safe = free & (variance > floor)
        gains = torch.where(safe, read.square() / torch.where(safe, variance, 1.0), 0.0)
        if float(gains.max()) > 0:
            pick = int(gains.argmax())
            L = factor[:, :used]
            column = (M[:, pick] - L @ L[pick]) / variance[pick].sqrt()
            energy = energy - gains[pick]
            read = read - read[pick] / variance[pick].sqrt() * column
            variance = variance - column.square()
            factor[:, used] = column
            used += 1
        else:
            pick = int(torch.where(free, M.diagonal(), -1.0).argmax())
        free[pick] = False
        picks.append(pick)
        residual.append(energy)
    return torch.tensor(picks, device="cpu"), torch.stack(residual)


def _take_away(M: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    N = len(M)
    energy, overlap, diagonal = M.new_zeros(()), M.new_zeros(N), M.diagonal()
    free = torch.ones(N, dtype=torch.bool, device="cpu")
    gone, left = [], []
    for _ in range(N):
        cost = 2 * overlap + diagonal
        out = int(torch.where(free, cost, torch.inf).argmin())
        left.append(energy)
        energy, overlap = energy + cost[out], overlap + M[:, out]
        free[out] = False
        gone.append(out)
    return torch.tensor(gone, device="cpu").flip(0)[:rank], torch.stack(left).flip(0)[:rank]


def _checked(M: Tensor, rank: int = 1) -> Tensor:
    require_square("M", M)
    require_finite("M", M)
    require_rank(rank)
    if rank > len(M):
        raise RankError(f"rank {rank} was asked for, but there are {len(M)} terms")
    return as_double(M)
