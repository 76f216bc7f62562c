"""Parameters of a reduced layer fitted to an output by Adam, one part of the data at a time.

The output y' of a layer under the delta rule is far from linear in the rows that make its keys and
queries, and what a few sequences say of them does not hold for others. So many parts of the data
are seen a few times each, and the fit is judged on parts that it has not seen:

    min  sum ||y'(W) - y||^2 / sum ||y||^2,    W_i = W_i(0) + s_i Z_i R_i.

Adam divides by the size of each coordinate's gradient, so coordinates matter. A matrix of rows that
meet inputs x has R = (E[x x'] + d I)^(-1/2), d 1 % of the mean eigenvalue, and s the root mean
square of W(0) x: a step changes all projections by the same share of their size. Any other value
has R = I and s its own root mean square.

Source: Kingma and Ba 2015 (arXiv 1412.6980); the whitening is one factor of Martens and Grosse 2015
(arXiv 1503.05671). Shapes: n rows, F inputs of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.matrix_state.fitting import inverse_root

# Rate: relative to a value's own size. Two layers of Gated DeltaNet cut to a quarter end worse with
# a third and with twice as much; with twice the steps they end a little better.
RATE = 2e-2
STEPS = 240
_WARM, _LEAST = 10, 0.01
# Of so many parts, one is kept to judge by.
_JUDGED = 8

Values = Sequence[Tensor]
Miss = Callable[[Values], Tensor]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One part of the data.

    Attributes:
        miss: from values to y' - y, differentiable.
        energy: sum of ||y||^2; of parts that are seen it need only be about right.
    """

    miss: Miss
    energy: float


def descend(
    parts: Sequence[Part],
    start: Values,
    covariances: Sequence[Tensor | None],
    *,
    steps: int = STEPS,
    rate: float = RATE,
) -> tuple[list[Tensor], float | None, float | None]:
    """The fitted values, and the relative errors sqrt(sum ||y' - y||^2 / sum ||y||^2) on what they
    are judged by, before and after.

    Args:
        parts: of the data. Every eighth is kept to judge by; with fewer, all are seen and judged.
        start: where no values are better by that judgement, these come back.
        covariances: E[x x'], (F, F), of the inputs of a matrix (n, F); None for other values.
        steps: of Adam, each on one part.
        rate: the highest learning rate; it falls as half a cosine.

    Raises:
        InputError: no data, or a covariance does not fit its matrix.
    """
    start = [value.detach() for value in start]
    if not parts:
        raise InputError("parts: expected at least one part of the data, got none")
    maps = [_coordinates(W, C) for W, C in zip(start, covariances, strict=True)]
    seen, judged = ([parts[i] for i in at] for at in split(len(parts)))
    if not all(sum(part.energy for part in some) > 0 for some in (judged, seen)):
        return start, None, None
    mean = sum(part.energy for part in seen) / len(seen)
    Z = [torch.zeros_like(value, requires_grad=True) for value in start]

    def values_at() -> list[Tensor]:
        return [W + to(z) for W, to, z in zip(start, maps, Z, strict=True)]

    with torch.enable_grad():
        adam = torch.optim.Adam(Z, lr=rate, betas=(0.9, 0.99))
        for step in range(steps):
            adam.param_groups[0]["lr"] = rate * _schedule(step, steps)
            adam.zero_grad()
            loss = seen[step % len(seen)].miss(values_at()).square().sum() / mean
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    with torch.no_grad():
        found = [value.detach() for value in values_at()]
        before, after = _error(judged, start), _error(judged, found)
    if not after < before:  # also where a number overflowed
        return start, before, before
    return found, before, after


def split(parts: int) -> tuple[range | list[int], range]:
    """Which of so many parts are seen, and which are kept to judge by: all, where they are few."""
    if parts < _JUDGED:
        return range(parts), range(parts)
    return [i for i in range(parts) if (i + 1) % _JUDGED], range(_JUDGED - 1, parts, _JUDGED)


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine."""
    falling = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / _WARM) * max(falling, _LEAST)


def _error(parts: Sequence[Part], values: Values) -> float:
    missed = sum(float(part.miss(values).double().square().sum()) for part in parts)
    return math.sqrt(missed / sum(part.energy for part in parts))


def _coordinates(start: Tensor, covariance: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The map from Z to s Z R."""
    if covariance is None:
        size = float(start.double().square().mean().sqrt()) or 1.0
        return lambda z: size * z
    if start.ndim != 2 or covariance.shape != (start.shape[1],) * 2:
        raise InputError(
            f"covariances: got {tuple(covariance.shape)} for values {tuple(start.shape)}; "
            "expected (F, F) for (n, F)"
        )
    W, C = start.double().cpu(), covariance.detach().double().cpu()
    size = float(((W @ C) * W).sum(1).mean().sqrt()) or 1.0
    right = (size * inverse_root(C)).to(start)
    return lambda z: z @ right
