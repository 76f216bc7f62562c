"""Refits after a choice of states of a selective layer: of the C rows, or of the output map.

C rows: kept states may be read by any linear mix of the old rows, C'_t[s] = sum_m R[s,m] C_t[m].
The output, U_t R C_t with U_t the kept states as they reach it, is linear in R, so the best R is a
ridge least-squares fit with r N unknowns. Its normal equations are sums of Kronecker
products, (U_t'U_t) x (C_t C_t'), and are streamed.

Output map: W' minimises E||W u - W' u'||^2 over the activations u in front of it, of the full layer
and of the cut one.

Shapes: N states, r kept states, m mixed directions, T samples, H outputs, D activations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double

# Relative to a unit diagonal. A few thousand tokens do not determine a thousand weights, and
# validation loss is flat around this value (a Mamba language model, 8 of 64 states, 1 % - 3 %).
MIX_RIDGE = 1e-2
# Unknowns of a refit; more of them cost seconds and are hardly determined.
MOST_UNKNOWNS = 2048
_TOGETHER = 512


def mixing_basis(covariance: Tensor, rank: int) -> Tensor:
    """The directions of C_t that a refit may use, (m, N): all, or the strongest.

    Args:
        covariance: E[C C'], (N, N).
        rank: r, with r m at most `MOST_UNKNOWNS`.
    """
    directions = max(1, MOST_UNKNOWNS // rank)
    if directions >= len(covariance):
        return torch.eye(len(covariance), dtype=torch.float64, device="cpu")
    _, vectors = torch.linalg.eigh(as_double(covariance))
    strongest: Tensor = vectors[:, -directions:].mT.contiguous()
    return strongest


class MixMoments:
    """Streams the normal equations of R = start + X basis, X (r, m).

    Args:
        start: (r, N), the mix that the ridge pulls towards.
        basis: (m, N).

    Attributes:
        unfitted: the relative error that `start` leaves, after `solve`.
    """

    unfitted: float | None = None

    def __init__(self, start: Tensor, basis: Tensor) -> None:
        self._start, self._basis = as_double(start), as_double(basis)
        r, m = len(start), len(basis)
        self._gram = torch.zeros(r * r, m * m, dtype=torch.float64, device="cpu")
        self._right = torch.zeros(r, m, dtype=torch.float64, device="cpu")
        # Of what start misses; of the output.
        self._energy = torch.zeros(2, dtype=torch.float64, device="cpu")
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by their totals over several processes."""
        self._flush()
        self._gram, self._right = total(self._gram), total(self._right)
        self._energy = total(self._energy)

    def update(self, U: Tensor, C: Tensor, target: Tensor) -> None:
        """Add samples.

        Args:
            U: (T, H, r), what one unit of each kept row adds to the output.
            C: (T, N), the old rows.
            target: (T, H), the full layer's output.
        """
        self._waiting.append((U, C, target))
        if sum(len(C) for _, C, _ in self._waiting) >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        """Add the samples that wait: many at once, because the sums are much larger than they."""
        if not self._waiting:
            return
        U, C, target = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        start, basis = self._start.to(C), self._basis.to(C)
        missing = target - torch.bmm(U, (C @ start.mT)[..., None])[..., 0]
        f = C @ basis.mT
        inner = torch.bmm(U.mT, U).flatten(1)
        outer = (f[:, :, None] * f[:, None, :]).flatten(1)
        self._gram += (inner.mT @ outer).double().cpu()
        reach = torch.bmm(U.mT, missing[..., None])[..., 0]
        self._right += (reach.mT @ f).double().cpu()
        for i, what in enumerate((missing, target)):
            self._energy[i] += float(what.double().square().sum())

    def solve(self, ridge: float = MIX_RIDGE) -> tuple[Tensor, float | None]:
        """R (r, N), and the relative error sqrt(E||y - y'||^2 / E||y||^2) that it leaves."""
        self._flush()
        r, m = self._right.shape
        gram = self._gram.view(r, r, m, m).transpose(1, 2).reshape(r * m, r * m)
        X = ridge_solve(gram, self._right.reshape(-1, 1), ridge)[:, 0]
        gained = 2 * (X @ self._right.flatten()) - X @ gram @ X
        left, whole = float(self._energy[0] - gained), float(self._energy[1])
        self.unfitted = _relative(float(self._energy[0]), whole)
        return self._start + X.view(r, m) @ self._basis, _relative(left, whole)


class OutputMoments:
    """Streams the moments of u and u' for the best output map of the cut layer.

    Attributes:
        unfitted: the relative error of the output with the map to start from, after `solve`.

    Errors are relative to what the states add to the output.
    """

    unfitted: float | None = None

    def __init__(self, width: int) -> None:
        # u'u' and (u - u')u'; (u - u')(u - u'); (u - u_0)(u - u_0).
        self._moment = torch.zeros(2, width, width, dtype=torch.float64, device="cpu")
        self._error = torch.zeros(width, width, dtype=torch.float64, device="cpu")
        self._whole = torch.zeros(width, width, dtype=torch.float64, device="cpu")

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by their totals over several processes."""
        self._moment, self._error = total(self._moment), total(self._error)
        self._whole = total(self._whole)

    def update(self, full: Tensor, cut: Tensor, skip: Tensor) -> None:
        """Add samples (T, D) of both, and of u_0, the full layer without its states."""
        if full.shape != cut.shape:
            raise InputError(f"full has shape {tuple(full.shape)}, cut {tuple(cut.shape)}")
        gap = full - cut
        self._moment[0] += (cut.mT @ cut).double().cpu()
        self._moment[1] += (gap.mT @ cut).double().cpu()
        self._error += (gap.mT @ gap).double().cpu()
        states = full - skip
        self._whole += (states.mT @ states).double().cpu()

    def fitted(self, weight: Tensor, start: Tensor, ridge: float = MIX_RIDGE) -> Tensor:
        """W' alone, which is linear in W and the map to start from; as for `solve`."""
        W, start = as_double(weight), as_double(start)
        return start + self._change(W, start, ridge)[0]

    def _change(self, W: Tensor, start: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """W' - start, and the right side of its normal equations."""
        own, gap = self._moment
        right = W @ gap + (W - start) @ own
        return ridge_solve(own, right.mT, ridge).mT, right

    def solve(
        self, weight: Tensor, start: Tensor, ridge: float = MIX_RIDGE
    ) -> tuple[Tensor, float | None]:
        """W' (H, D), and the relative error of the output that it leaves.

        Args:
            weight: W of the full layer.
            start: the map that the ridge pulls towards; a layer that lost nothing keeps it.
            ridge: relative to the mean squares of u'.
        """
        W, start = as_double(weight), as_double(start)
        (own, gap), ahead = self._moment, W - start
        change, right = self._change(W, start, ridge)
        gained = 2 * (change * right).sum() - ((change @ own) * change).sum()
        before = (W @ self._error) * W + 2 * (W @ gap) * ahead + (ahead @ own) * ahead
        whole = float(((W @ self._whole) * W).sum())
        self.unfitted = _relative(float(before.sum()), whole)
        return start + change, _relative(float(before.sum() - gained), whole)


def _relative(energy: float, whole: float) -> float | None:
    return (max(energy, 0.0) / whole) ** 0.5 if whole > 0 else None


def ridge_solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """(gram + ridge diag(gram))^{-1} right, and 0 where the diagonal is.

    Args:
        gram: (q, q) symmetric positive semidefinite.
        right: (q, k).
        ridge: > 0.
    """
    if not ridge > 0:
        raise InputError(f"ridge is {ridge!r}; expected a number > 0")
    diagonal = gram.diagonal()
    live = diagonal > torch.finfo(torch.float64).eps * diagonal.max().clamp_min(0)
    scale = torch.where(live, diagonal.clamp_min(1e-300).rsqrt(), 0.0)
    unit = gram * scale[:, None] * scale
    unit = unit + torch.diag(torch.where(live, ridge, 1.0))
    factor = torch.linalg.cholesky(unit)
    solved: Tensor = torch.cholesky_solve(right * scale[:, None], factor)
    return solved * scale[:, None]
