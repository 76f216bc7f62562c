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
    """`spent` when `figure` was first at least (or at most) `level`.

    Args:
        lines: figures of a run in the order of its steps, such as {"joules": 90.0,
            "val_accuracy_percent": 71.2}. Where the line that comes there does not say what was
            spent, the first one after it that does counts, as in the metrics.jsonl of a run
            (`figure="val/accuracy"`, `spent="run/joules"`).
        level: in the unit of the figure.
        spent: what to return: joules, seconds or whatever the lines count up.
        figure: what has to reach the level.
        higher_is_better: False for a loss or an error.

    Returns:
        None where no line comes there, or none from there on says what was spent.
    """
    reached = False
    for line in lines:
        value = line.get(figure)
        if value is not None:
            reached |= bool(value >= level if higher_is_better else value <= level)
        if reached and line.get(spent) is not None:
            return float(line[spent])
    return None
