"""Rows of projections fitted to an output that is not linear in all of them together.

Of a selective layer that keeps some of its states, the output y' depends on the rows W_1, W_2 that
make B and C, and is bilinear in them where nothing nonlinear follows. They are fitted by L-BFGS to
the output y of the full layer,

    min  sum ||y'(W) - y||^2 / sum ||y||^2  +  ridge ||Z||^2,    W_i = W_i(0) + P_i Z_i Q,

in coordinates Z in which the curvature is near one: with x what the projections see,
Q = (E[x x'] + d I)^(-1/2), and P_i = (K_i + d I)^(-1/2) with K_i an average of g g' over columns, g
the gradient of the output in a random direction, and d 1 % of the mean eigenvalue of each. The
factors are those of Martens and Grosse (2015, arXiv 1503.05671) for the Gauss-Newton matrix.

Shapes: n rows, F inputs of the projections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.matrix_state.mixing import MIX_RIDGE
from compressm.numerics.search import descend

# Validation loss right after a cut goes on falling slowly beyond (docs/methods.md, what was tried).
ITERATIONS = 40
# Eigenvalues of both factors count from here on, relative to the mean. Along directions that inputs
# hardly have, rows would grow for the same error. What they train to afterwards depends on it, and
# not in one direction (`experiments/mamba-lm.yaml`, arm damping).
FIT_DAMPING = 1e-2

Rows = Sequence[Tensor]


def fit_rows(
    misses: Sequence[Callable[[Rows], Tensor]],
    start: Rows,
    covariance: Tensor,
    energy: float,
    *,
    iterations: int = ITERATIONS,
    ridge: float = MIX_RIDGE,
) -> tuple[list[Tensor], float | None]:
    """The fitted rows, and the relative error sqrt(sum ||y' - y||^2 / energy) that they leave.

    Args:
        misses: one function for each part of the data, from rows to y' - y, differentiable.
        start: matrices (n_i, F); where no rows leave less, these come back.
        covariance: E[x x'], (F, F).
        energy: sum of ||y||^2 over all parts.
        iterations: of L-BFGS, each about one pass over the data.
        ridge: >= 0, against what the data leave open.

    Raises:
        InputError: no data, or `covariance` does not fit the rows.
    """
    start = [rows.detach() for rows in start]
    width = start[0].shape[1]
    if not misses:
        raise InputError("misses: expected at least one part of the data, got none")
    if covariance.shape != (width, width):
        shape = tuple(covariance.shape)
        raise InputError(f"covariance has shape {shape}; expected {(width, width)}")
    if not energy > 0:
        return list(start), None
    right = inverse_root(covariance).to(start[0])
    left = _left_factors(misses, start, right, energy)
    Z = [torch.zeros_like(rows, requires_grad=True) for rows in start]

    def rows_at() -> list[Tensor]:
        return [W + P @ z @ right for W, P, z in zip(start, left, Z, strict=True)]

    def loss() -> float:
        total = 0.0
        for miss in misses:
            part = miss(rows_at()).square().sum() / energy
            part.backward()  # type: ignore[no-untyped-call]
            total += float(part.detach())
        penalty = ridge * torch.stack([z.square().sum() for z in Z]).sum()
        penalty.backward()  # type: ignore[no-untyped-call]
        return total + float(penalty.detach())

    descend(loss, Z, iterations)
    with torch.no_grad():
        found = [rows.detach() for rows in rows_at()]
        before, after = (
            sum(float(miss(rows).square().sum()) for miss in misses) for rows in (start, found)
        )
    if not after < before:  # also where a number overflowed
        found, after = list(start), before
    return found, (after / energy) ** 0.5


def _left_factors(
    misses: Sequence[Callable[[Rows], Tensor]], start: Rows, right: Tensor, energy: float
) -> list[Tensor]:
    """P_i from one random direction of the output of each part."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    sums = [torch.zeros(len(rows), len(rows), dtype=torch.float64, device="cpu") for rows in start]
    for miss in misses:
        leaves = [rows.clone().requires_grad_() for rows in start]
        with torch.enable_grad():
            gap = miss(leaves)
            shape, dtype = gap.shape, torch.float64
            drawn = torch.randn(shape, generator=generator, dtype=dtype, device="cpu")
            direction = drawn.to(gap)
            gradients = torch.autograd.grad((gap * direction).sum(), leaves)
        for total, gradient in zip(sums, gradients, strict=True):
            g = (gradient @ right).double().cpu()
            total += g @ g.mT / (g.shape[1] * energy)
    return [inverse_root(K).to(rows) for K, rows in zip(sums, start, strict=True)]


def inverse_root(moment: Tensor) -> Tensor:
    """(moment + damping)^(-1/2), float64; the identity, if it is zero or not finite."""
    moment = moment.detach().cpu().double()
    mean = float(moment.diagonal().mean())
    if not 0 < mean < float("inf"):
        return torch.eye(len(moment), dtype=torch.float64, device="cpu")
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp_min(0)
    root: Tensor = (vectors * (values + FIT_DAMPING * mean).rsqrt()) @ vectors.mT
    return root
