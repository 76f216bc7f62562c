"""How Hankel singular values move when a system changes a little.

H = (P^{1/2} Q P^{1/2})^{1/2} is Hermitian with the Hankel singular values as eigenvalues, so by
Weyl's inequality |σ_i(t') - σ_i(t)| <= ||H(t') - H(t)||_2.

Shapes: n coordinates (N, or 2N in real coordinates); with G in front for groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double, require_square


@dataclass(frozen=True, kw_only=True, eq=False)
class HankelMatrix:
    """H and its eigendecomposition.

    Args:
        matrix: H (n, n), Hermitian.
        values: σ (n,), descending.
        vectors: (n, n), column i is the direction of values[i].
    """

    matrix: Tensor
    values: Tensor
    vectors: Tensor


def hankel_matrix(P: Tensor, Q: Tensor) -> HankelMatrix:
    """H = (P^{1/2} Q P^{1/2})^{1/2} of the Gramians P and Q, both (n, n).

    The Hermitian roots are continuous in P and Q, unlike Cholesky factors with pivots, so the
    matrices of two training steps can be compared. Small σ are less exact here than from
    `hankel_singular_values` (their squares are computed): read them relative to the largest.

    Raises:
        InputError: the sizes differ.
    """
    require_square("P", P)
    require_square("Q", Q, P.shape[-1])
    P, Q = as_double(P), as_double(Q)
    dtype = torch.promote_types(P.dtype, Q.dtype)
    p, U = torch.linalg.eigh(P.to(dtype))
    root = (U * p.clamp_min(0).sqrt()[..., None, :]) @ U.mH
    product = root @ Q.to(dtype) @ root
    squares, vectors = torch.linalg.eigh((product + product.mH) / 2)
    values = squares.clamp_min(0).sqrt().flip(-1)
    vectors = vectors.flip(-1)
    return HankelMatrix(
        matrix=(vectors * values[..., None, :]) @ vectors.mH, values=values, vectors=vectors
    )


def weyl_bound(before: HankelMatrix, after: HankelMatrix) -> float:
    """||H' - H||_2, which no singular value can move further than; of groups, the largest.

    Raises:
        InputError: the sizes differ.
    """
    if before.matrix.shape != after.matrix.shape:
        raise InputError(
            f"the matrices have shapes {tuple(before.matrix.shape)} and "
            f"{tuple(after.matrix.shape)}; expected equal"
        )
    return float(torch.linalg.matrix_norm(after.matrix - before.matrix, 2).max())
