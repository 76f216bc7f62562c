"""Hankel singular values and balancing by the square-root method.

sigma_i = sqrt(eig_i(P Q)), computed as the singular values of R* S with P = S S*, Q = R R*.

Shapes: n state (N, or 2N in real coordinates), k and l numerical ranks of P and Q.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double, require_finite, require_square

# Pivots of a Cholesky factor above this many roundings give every singular value about four
# correct digits, however small it is; below, eigh decides what is rank and what is rounding.
_SAFE_PIVOT = 1e4
# Stands for the variance of a state that nothing drives, relative to the largest.
_UNDRIVEN = 1e-60


@dataclass(frozen=True, kw_only=True)
class Balancing:
    """R* S = U diag(sigma) Vh, all that balanced truncation needs.

    Args:
        S: (n, k), P = S S*.
        R: (n, l), Q = R R*.
        U: (l, q), q = min(k, l).
        sigma: (n,) Hankel singular values, descending, zero beyond q.
        Vh: (q, k).
        numerical_rank: how many of sigma stand above rounding.
    """

    S: Tensor
    R: Tensor
    U: Tensor
    sigma: Tensor
    Vh: Tensor
    numerical_rank: int


def psd_factor(
    P: Tensor, *, name: str = "P", pairs: bool = False, unit: Tensor | None = None
) -> Tensor:
    """S with P = S S*, for Hermitian positive semidefinite P.

    P is scaled to a unit diagonal, so that badly scaled states keep their digits; Cholesky when
    it is safely definite, else eigh with directions at rounding level dropped.

    Args:
        P: (n, n).
        name: how errors call it.
        pairs: P is in real coordinates [Re x; Im x]. Both parts of a state then share a scale: a
            nearly real state has an imaginary part far below the rounding of its real part.
        unit: (n,) positive, one for each state: what is rounding is decided for x / unit.

    Returns:
        (n, k) float64 or complex128; k < n when P is numerically singular.

    Raises:
        InputError: P is not square, finite, Hermitian, or has a clearly negative eigenvalue.
    """
    require_square(name, P)
    require_finite(name, P)
    eps = torch.finfo(P.dtype).eps
    P = as_double(P)
    n = P.shape[0]
    if float((P - P.mH).abs().max()) > eps**0.5 * float(P.diagonal().abs().max()):
        raise InputError(f"{name} is not Hermitian; a Gramian must be")
    scale = torch.ones_like(P.diagonal().real) if unit is None else unit
    diagonal = P.diagonal().real / scale.square()
    if pairs:
        diagonal = diagonal.view(2, -1).sum(0).repeat(2)
    size = float(diagonal.abs().max())
    if size > 0:
        scale = scale * diagonal.clamp_min(eps * size).sqrt()
    level = P / (scale[:, None] * scale)
    level = (level + level.mH) / 2
    L, info = torch.linalg.cholesky_ex(level)
    if not int(info) and float(L.diagonal().real.min()) ** 2 > _SAFE_PIVOT * n * eps:
        factor: Tensor = L * scale[:, None]
        return factor
    values, vectors = torch.linalg.eigh(level)
    if not _semidefinite(values, eps):
        # The scaling blows up a direction that holds rounding errors and nothing else.
        scale = torch.ones_like(scale)
        values, vectors = torch.linalg.eigh((P + P.mH) / 2)
        if not _semidefinite(values, eps):
            raise InputError(
                f"{name} has the eigenvalue {float(values[0]):.3g} (the largest is "
                f"{float(values[-1]):.3g}); a Gramian must be positive semidefinite"
            )
    keep = values > 10 * n * eps * values[-1]
    factor = vectors[:, keep] * values[keep].sqrt()
    return factor * scale[:, None]


def _semidefinite(values: Tensor, eps: float) -> bool:
    """Whether ascending eigenvalues (n,) are non-negative to rounding."""
    return float(values[0]) >= -100 * len(values) * eps * float(values[-1].clamp_min(0))


def hankel_singular_values(P: Tensor, Q: Tensor, *, pairs: bool = False) -> Tensor:
    """Hankel singular values (n,), descending, of the Gramians P and Q, both (n, n).

    `pairs`: they are in real coordinates [Re x; Im x], see `psd_factor`.

    Raises:
        InputError: as `psd_factor`, or when the sizes differ.
    """
    S, R = _factors(P, Q, pairs)
    return _padded(torch.linalg.svdvals(R.mH @ S), P.shape[0])


def balance(P: Tensor, Q: Tensor, *, pairs: bool = False) -> Balancing:
    """The factors and the SVD that balance the Gramians P and Q, both (n, n).

    `pairs`: they are in real coordinates [Re x; Im x], see `psd_factor`.

    In balanced coordinates V = S Vh* sigma^{-1/2}, W = R U sigma^{-1/2} both Gramians are
    diag(sigma).

    Raises:
        InputError: as `psd_factor`, or when the sizes differ.

    Source: Tombs and Postlethwaite, Int. J. Control 46 (1987), the square-root method.
    """
    S, R = _factors(P, Q, pairs)
    U, sigma, Vh = torch.linalg.svd(R.mH @ S, full_matrices=False)
    # Entry errors of the product R* S are roundings of sum_k |R_ki| |S_kj|; this bound on them
    # does not change when states are rescaled.
    roundings = (S.norm(dim=1) * R.norm(dim=1)).sum()
    resolution = 10 * torch.finfo(torch.float64).eps * float(roundings)
    return Balancing(
        S=S,
        R=R,
        U=U,
        sigma=_padded(sigma, P.shape[0]),
        Vh=Vh,
        numerical_rank=int((sigma > resolution).sum()),
    )


def truncation_bound(sigma: Tensor, order: int) -> float:
    """The guarantee ||G - G_m||_inf <= 2 sum_{i > m} sigma_i of balanced truncation.

    Args:
        sigma: (n,) Hankel singular values, descending.
        order: m, the number of balanced directions kept (2r for r complex states of a real map).

    Source: Al-Saggaf and Franklin, IEEE TAC 32 (1987), for discrete time.
    """
    return 2.0 * float(as_double(sigma)[order:].sum())


def _factors(P: Tensor, Q: Tensor, pairs: bool) -> tuple[Tensor, Tensor]:
    """S and R, computed where every state is as large in P as in Q.

    The unit of a state is free. In one that makes it small in P and large in Q, `psd_factor`
    would take it for rounding, whatever it does to the output.
    """
    require_square("P", P)
    require_square("Q", Q, P.shape[0])
    require_finite("P", P)
    require_finite("Q", Q)
    unit = _common_units(P, Q, pairs)
    S = psd_factor(P, name="P", pairs=pairs, unit=unit)
    R = psd_factor(Q, name="Q", pairs=pairs, unit=1 / unit)
    dtype = torch.promote_types(S.dtype, R.dtype)
    return S.to(dtype), R.to(dtype)


def _common_units(P: Tensor, Q: Tensor, pairs: bool) -> Tensor:
    """(P_ii / Q_ii)^{1/4}, rounded to powers of two so that rescaling is exact: (n,).

    A state that P or Q does not know is left tiny in the other one, too.
    """
    p, q = (as_double(M.diagonal().real).abs() for M in (P, Q))
    if pairs:
        p, q = (d.view(2, -1).sum(0).repeat(2) for d in (p, q))
    p, q = (d.clamp_min(_UNDRIVEN * float(d.max())) for d in (p, q))
    ratio = torch.where((p > 0) & (q > 0), p.log2() - q.log2(), 0.0)
    return torch.exp2(torch.round(ratio / 4))


def _padded(sigma: Tensor, n: int) -> Tensor:
    return torch.cat([sigma, sigma.new_zeros(n - len(sigma))])
