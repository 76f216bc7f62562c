"""Gramians of a matrix-valued state: what keys write and what queries read.

P = E[k k'] and Q = E[q q'] of each group, where they enter the recurrence. For stationary inputs
and without a delta rule, dropping a set R of states costs about 1_R' (P o Q) 1_R of the output's
energy (o: elementwise); under a delta rule states interact, and it is a ranking.

Several entries of a key can be one state (a plane that is rotated), and several groups can keep the
same states: then their Gram matrices are pooled. Entry a of state n is at a N + n.

Shapes as in `signals`; A entries of a state, S groups of signals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double
from compressm.numerics.lti.hankel import balance, common_units
from compressm.numerics.matrix_state.signals import Signals

# Added to the diagonal of both Gramians, relative to its mean: directions that nothing drives, or
# that nothing reads, have a place in the basis then.
_FLOOR = 1e-8


class KeyQueryGramians:
    """Streams P and Q over calls of a layer.

    Args:
        groups: G.
        states: N.
    """

    def __init__(self, groups: int, states: int) -> None:
        self._sums = torch.zeros(2, groups, states, states, dtype=torch.float64, device="cpu")
        self._count = 0.0

    def update(self, s: Signals) -> None:
        """Add one call."""
        for i, rows in enumerate((s.keys, s.queries)):
            counted = rows[s.mask].double()
            self._sums[i] += torch.einsum("tgn,tgm->gnm", counted, counted).cpu()
        self._count += float(s.mask.sum())

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by their totals over several processes."""
        self._sums = total(self._sums)
        self._count = float(total(torch.tensor(self._count, dtype=torch.float64, device="cpu")))

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """P and Q, (G, N, N) float64.

        Raises:
            InputError: no time step has been seen.
        """
        if not self._count:
            raise InputError("no time step has been seen: no data, or all of it masked")
        P, Q = self._sums / self._count
        return P, Q


def pooled_terms(M: Tensor, entries: int) -> Tensor:
    """Gram matrix (N, N) of what states add, from those of their entries, (S, A N, A N).

    A state adds what its entries add together, and groups do not add to each other.
    """
    return _by_entry(M, entries).sum((0, 1, 3))


def pooled_columns(gram: Tensor, entries: int) -> Tensor:
    """Gram matrix (N, N) of the columns of states, from those of their entries, (S, A N, A N).

    Entries and groups of a state lie one below the other in its column.
    """
    return _by_entry(gram, entries).diagonal(dim1=1, dim2=3).sum((0, -1))


def _by_entry(gram: Tensor, entries: int) -> Tensor:
    """(S, A N, A N) as (S, A, N, A, N)."""
    return gram.reshape(len(gram), *(entries, gram.shape[-1] // entries) * 2)


def stacked(P: Tensor, Q: Tensor) -> Tensor:
    """The Gram matrices (S, N, N) of keys and queries stacked, each of unit energy in all."""
    traces = (G.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-300) for G in (P, Q))
    parts = [G / t[..., None, None] for G, t in zip((P, Q), traces, strict=True)]
    return parts[0] + parts[1]


def pivots(gram: Tensor) -> Tensor:
    """Columns in the order of QR with column pivoting, from their Gram matrix: (N,) int64.

    Each next column is the one with the largest part outside the span of those before it. That is
    how key dimensions have been chosen after training; the published code goes on to strong
    rank-revealing QR, whose exchanges start from this order.

    Source: Businger and Golub (1965); by pivoted Cholesky of the Gram matrix.
    """
    left, order = gram.detach().cpu().double().clone(), []
    free = torch.ones(len(left), dtype=torch.bool, device="cpu")
    for _ in range(len(left)):
        pick = int(torch.where(free, left.diagonal(), -torch.inf).argmax())
        order.append(pick)
        free[pick] = False
        size = float(left[pick, pick])
        if size > 0:
            left = left - torch.outer(left[:, pick], left[pick]) / size
    return torch.tensor(order, device="cpu")


def exchanged(gram: Tensor, kept: Tensor, *, factor: float = 2.0) -> Tensor:
    """Kept columns after the exchanges of strong rank-revealing QR: (r,) int64, ascending.

    With R = [R_11 R_12; 0 R_22] the triangular factor of the columns, kept ones first, an exchange
    of kept column i for dropped column j multiplies |det R_11| by

        rho_ij = sqrt((R_11^-1 R_12)_ij^2 + (gamma_j(R_22) / omega_i(R_11))^2),

    gamma_j the norm of column j, 1 / omega_i that of row i of R_11^-1. The largest is made until
    none is above `factor`.

    Args:
        gram: (N, N), of all columns.
        kept: (r,) to begin with.
        factor: > 1.

    Source: Gu and Eisenstat, SIAM J. Sci. Comput. 17 (1996), Algorithm 4.
    """
    gram = gram.detach().cpu().double()
    inside = torch.zeros(len(gram), dtype=torch.bool, device="cpu")
    inside[kept.cpu()] = True
    before, volume = inside, -math.inf
    while True:
        inner, outer = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
        factors, failed = torch.linalg.cholesky_ex(gram[inner][:, inner])
        grown = -math.inf if bool(failed) else float(factors.diagonal().log().sum())
        # log |det R_11|. Columns that depend on each other have no volume but rounding.
        if not grown > volume + 0.5 * math.log(factor):
            return before.nonzero()[:, 0]
        inverse = torch.cholesky_inverse(factors)
        across = gram[inner][:, outer]
        mixed = inverse @ across
        left = (gram.diagonal()[outer] - (across * mixed).sum(0)).clamp_min(0)
        gains = mixed.square() + inverse.diagonal()[:, None] * left
        if not len(outer) or not float(gains.max()) > factor**2:
            return inner
        i, j = divmod(int(gains.argmax()), len(outer))
        before, volume, inside = inside, grown, inside.clone()
        inside[inner[i]], inside[outer[j]] = False, True


def balanced_bases(P: Tensor, Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V, W and sigma: W'V = I, and W'P W = V'Q V = diag(sigma), sigma descending.

    With k~ = W'k and q~ = V'q the product q'k = q~'k~ stays as it is, and both Gramians become
    diag(sigma). Both count with a floor of 1e-8 of their mean diagonal, in
    units in which every state is as large in P as in Q.

    Args:
        P: (G, N, N) E[k k'].
        Q: (G, N, N) E[q q'].

    Returns:
        (G, N, N), (G, N, N) and (G, N) float64.

    Source: Tombs and Postlethwaite 1987, the square-root method.
    """
    # The unit of a state is free (a key of twice the size, a query of half of it), and what is
    # small beside others should not depend on it.
    unit = common_units(P, Q, pairs=False)
    across = unit[:, :, None] * unit[:, None, :]
    found = balance(_lifted(as_double(P) / across), _lifted(as_double(Q) * across))
    root, unit = found.sigma[:, None, :].sqrt(), unit[:, :, None]
    V, W = found.S @ found.Vh.mT / root, found.R @ found.U / root
    return V * unit, W / unit, found.sigma


def _lifted(M: Tensor) -> Tensor:
    """With the floor on its diagonal."""
    mean = M.diagonal(dim1=-2, dim2=-1).mean(-1)
    level = torch.where(mean > 0, _FLOOR * mean, 1.0)
    return M + torch.diag_embed(level[:, None].expand(M.shape[:-1]))
