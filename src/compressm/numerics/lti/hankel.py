"""Hankel singular values and balancing by the square-root method.

sigma_i = sqrt(eig_i(P Q)), computed as the singular values of R* S with P = S S*, Q = R R*.

Shapes: n state (N, or 2N in real coordinates), k and l numerical ranks of P and Q; G groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double, require_finite, require_square
from compressm.numerics.lti.groups import diagonal, leading

# Pivots of a Cholesky factor above this many roundings give every singular value about four
# correct digits, however small it is; below, eigh decides what is rank and what is rounding.
_SAFE_PIVOT = 1e4
# Stands for the variance of a state that nothing drives, relative to the largest.
_UNDRIVEN = 1e-60


@dataclass(frozen=True, kw_only=True)
class Balancing:
    """R* S = U diag(sigma) Vh, all that balanced truncation needs; with groups, of each.

    Args:
        S: (n, k), P = S S*; k is that of the group with the most, others have zero columns.
        R: (n, l), Q = R R*, likewise.
        U: (l, q), q = min(k, l).
        sigma: (n,) Hankel singular values, descending, zero beyond q.
        Vh: (q, k).
        ranks: () or (G,), how many of sigma stand above rounding.
    """

    S: Tensor
    R: Tensor
    U: Tensor
    sigma: Tensor
    Vh: Tensor
    ranks: Tensor

    @property
    def numerical_rank(self) -> int:
        """How many singular values stand above rounding, in the group that has most."""
        return int(self.ranks.max())


def psd_factor(
    P: Tensor, *, name: str = "P", pairs: bool = False, unit: Tensor | None = None
) -> Tensor:
    """S with P = S S*, for Hermitian positive semidefinite P.

    P is scaled to a unit diagonal, so that badly scaled states keep their digits; Cholesky when
    it is safely definite, else eigh with directions at rounding level dropped.

    Args:
        P: (n, n) or (G, n, n).
        name: how errors call it.
        pairs: P is in real coordinates [Re x; Im x]. Both parts of a state then share a scale: a
            nearly real state has an imaginary part far below the rounding of its real part.
        unit: (n,) or (G, n) positive, one for each state: what is rounding is decided for x / unit.

    Returns:
        (n, k) float64 or complex128; k < n when P is numerically singular. (G, n, k) with groups,
        k that of the group with the most; the others have zero columns.

    Raises:
        InputError: P is not square, finite, Hermitian, or has a clearly negative eigenvalue.
    """
    require_square(name, P)
    require_finite(name, P)
    eps = torch.finfo(P.dtype).eps
    grouped, P = P.ndim == 3, as_double(P)
    P = P if grouped else P[None]
    unevenness = (P - P.mH).abs().amax((-2, -1))
    if bool((unevenness > eps**0.5 * diagonal(P).abs().amax(-1)).any()):
        raise InputError(f"{name} is not Hermitian; a Gramian must be")
    scale = _scale(P, torch.ones_like(diagonal(P).real) if unit is None else unit, pairs, eps)
    level = P / (scale[..., :, None] * scale[..., None, :])
    level = (level + level.mH) / 2
    L, info = torch.linalg.cholesky_ex(level)
    pivot = diagonal(L).real.amin(-1).square()
    safe = (info == 0) & (pivot > _SAFE_PIVOT * P.shape[-1] * eps)
    if bool(safe.all()):
        factor: Tensor = L * scale[..., None]
    else:
        rest = _semidefinite_factor(P[~safe], level[~safe], scale[~safe], name, eps)
        if bool(safe.any()):
            factor = L * scale[..., None]
            factor[~safe] = torch.nn.functional.pad(rest, (P.shape[-1] - rest.shape[-1], 0))
        else:
            factor = rest
    return factor if grouped else factor[0]


def _scale(P: Tensor, unit: Tensor, pairs: bool, eps: float) -> Tensor:
    """Roots of the diagonal in these units: (G, n)."""
    unit = unit.expand(P.shape[:-1])
    size = diagonal(P).real / unit.square()
    if pairs:
        size = torch.unflatten(size, -1, (2, -1)).sum(-2).tile(2)
    largest = size.abs().amax(-1, keepdim=True)
    return torch.where(largest > 0, unit * size.clamp_min(eps * largest).sqrt(), unit)


def _semidefinite_factor(P: Tensor, level: Tensor, scale: Tensor, name: str, eps: float) -> Tensor:
    """Factors of P (G, n, n) = diag(scale) level diag(scale) by eigh, rounding dropped."""
    values, vectors = torch.linalg.eigh(level)
    bad = ~_semidefinite(values, eps)
    if bool(bad.any()):
        # The scaling blows up a direction that holds rounding errors and nothing else.
        values[bad], vectors[bad] = torch.linalg.eigh((P[bad] + P[bad].mH) / 2)
        scale = torch.where(bad[:, None], 1.0, scale)
        bad = ~_semidefinite(values, eps)
        if bool(bad.any()):
            worst = values[bad][0]
            raise InputError(
                f"{name} has the eigenvalue {float(worst[0]):.3g} (the largest is "
                f"{float(worst[-1]):.3g}); a Gramian must be positive semidefinite"
            )
    keep = values > 10 * values.shape[-1] * eps * values[:, -1:]
    # Eigenvalues ascend, so what is kept of any group is among the last columns.
    used = values.shape[-1] - int(keep.sum(-1).max())
    roots = torch.where(keep, values, 0).sqrt()
    factor: Tensor = vectors[:, :, used:].contiguous() * roots[:, None, used:]
    return factor * scale[:, :, None]


def _semidefinite(values: Tensor, eps: float) -> Tensor:
    """Whether ascending eigenvalues (G, n) are non-negative to rounding: (G,)."""
    return values[:, 0] >= -100 * values.shape[-1] * eps * values[:, -1].clamp_min(0)


def hankel_singular_values(P: Tensor, Q: Tensor, *, pairs: bool = False) -> Tensor:
    """Hankel singular values (n,), descending, of the Gramians P and Q, both (n, n).

    With groups (G, n) of (G, n, n). `pairs`: they are in real coordinates [Re x; Im x], see
    `psd_factor`.

    Raises:
        InputError: as `psd_factor`, or when the sizes differ.
    """
    S, R = _factors(P, Q, pairs)
    return _padded(torch.linalg.svdvals(R.mH @ S), P.shape[-1])


def balance(P: Tensor, Q: Tensor, *, pairs: bool = False) -> Balancing:
    """The factors and the SVD that balance the Gramians P and Q, both (n, n) or (G, n, n).

    `pairs`: they are in real coordinates [Re x; Im x], see `psd_factor`.

    In balanced coordinates V = S Vh* sigma^{-1/2}, W = R U sigma^{-1/2} both Gramians are
    diag(sigma).

    Raises:
        InputError: as `psd_factor`, or when the sizes differ.

    Source: Tombs and Postlethwaite, Int. J. Control 46 (1987), the square-root method.
    """
    S, R = _factors(P, Q, pairs)
    U, sigma, Vh = torch.linalg.svd(R.mH @ S, full_matrices=False)
    return Balancing(
        S=S,
        R=R,
        U=U,
        sigma=_padded(sigma, P.shape[-1]),
        Vh=Vh,
        ranks=resolved(sigma, S, R),
    )


def resolved(sigma: Tensor, S: Tensor, R: Tensor) -> Tensor:
    """How many singular values of R* S stand above rounding, () or (G,).

    Entry errors of the product are roundings of sum_k |R_ki| |S_kj|; this bound on them does not
    change when states are rescaled.
    """
    roundings = (S.norm(dim=-1) * R.norm(dim=-1)).sum(-1)
    resolution = 10 * torch.finfo(torch.float64).eps * roundings
    ranks: Tensor = (sigma > resolution[..., None]).sum(-1)
    return ranks


def truncation_bound(sigma: Tensor, order: int | Tensor) -> float:
    """The guarantee ||G - G_m||_inf <= 2 sum_{i > m} sigma_i of balanced truncation.

    Groups are channels in parallel, so the bound of all is the largest bound of one.

    Args:
        sigma: (n,) or (G, n) Hankel singular values, descending.
        order: m, the number of balanced directions kept (2r for r complex states of a real map);
            (G,) where groups differ.

    Source: Al-Saggaf and Franklin, IEEE TAC 32 (1987), for discrete time.
    """
    sigma = as_double(sigma)
    if sigma.ndim == 1:
        return 2.0 * float(sigma[int(order) :].sum())
    kept = leading(torch.as_tensor(order, device="cpu").expand(len(sigma)), sigma.shape[-1])
    return 2.0 * float(sigma.masked_fill(kept, 0).sum(-1).max())


def _factors(P: Tensor, Q: Tensor, pairs: bool) -> tuple[Tensor, Tensor]:
    """S and R, computed where every state is as large in P as in Q.

    The unit of a state is free. In one that makes it small in P and large in Q, `psd_factor`
    would take it for rounding, whatever it does to the output.
    """
    require_square("P", P)
    require_square("Q", Q, P.shape[-1])
    require_finite("P", P)
    require_finite("Q", Q)
    unit = common_units(P, Q, pairs)
    S = psd_factor(P, name="P", pairs=pairs, unit=unit)
    R = psd_factor(Q, name="Q", pairs=pairs, unit=1 / unit)
    dtype = torch.promote_types(S.dtype, R.dtype)
    return S.to(dtype), R.to(dtype)


def common_units(P: Tensor, Q: Tensor, pairs: bool) -> Tensor:
    """(P_ii / Q_ii)^{1/4}, rounded to powers of two so that rescaling is exact: (n,) or (G, n).

    A state that P or Q does not know is left tiny in the other one, too.
    """
    p, q = (as_double(diagonal(M).real).abs() for M in (P, Q))
    if pairs:
        p, q = (torch.unflatten(d, -1, (2, -1)).sum(-2).tile(2) for d in (p, q))
    p, q = (d.clamp_min(_UNDRIVEN * d.amax(-1, keepdim=True)) for d in (p, q))
    ratio = torch.where((p > 0) & (q > 0), p.log2() - q.log2(), 0.0)
    return torch.exp2(torch.round(ratio / 4))


def _padded(sigma: Tensor, n: int) -> Tensor:
    return torch.nn.functional.pad(sigma, (0, n - sigma.shape[-1]))
