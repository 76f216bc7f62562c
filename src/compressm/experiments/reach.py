"""What a training had spent when it was first as good as asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def spent_until(
    lines: Iterable[Mapping[str, Any]],
    level: float,
    *,
    spent: str = "joules",
    figure: str = "val_accuracy_percent",
    higher_is_better: bool = True,
) -> float | None:
    """`spent` of the first line whose `figure` is at least (or at most) `level`.

    Args:
        lines: figures of a run in the order of its steps, such as {"joules": 90.0,
            "val_accuracy_percent": 71.2}; lines without one of the two are passed over.
        level: in the unit of the figure.
        spent: what to return: joules, seconds or whatever the lines count up.
        figure: what has to reach the level.
        higher_is_better: False for a loss or an error.

    Returns:
        None where no line comes there.
    """
    for line in lines:
        value, cost = line.get(figure), line.get(spent)
        if value is None or cost is None:
            continue
        if value >= level if higher_is_better else value <= level:
            return float(cost)
    return None
