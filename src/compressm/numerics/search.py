"""The search that fits share: L-BFGS with a line search, in coordinates where steps are even."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_REMEMBERED = 20


def descend(loss: Callable[[], float], coordinates: Sequence[Tensor], iterations: int) -> None:
    """Lower a loss over its coordinates, which are changed.

    Args:
        loss: its value where they are; it leaves its gradient in their `grad`. Relative to what is
            fitted, so that it is about one where nothing is explained.
        coordinates: leaves of the graph, of which the curvature should be near one.
        iterations: each is about one call of the loss.
    """

    def fresh() -> float:
        for one in coordinates:
            one.grad = None
        return loss()

    search: torch.optim.Optimizer = torch.optim.LBFGS(
        coordinates,
        max_iter=iterations,
        history_size=_REMEMBERED,
        line_search_fn="strong_wolfe",
        # The defaults end before float64 does.
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
    )
    with torch.enable_grad():
        search.step(fresh)
