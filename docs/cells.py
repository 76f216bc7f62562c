"""Cells of tables: a mean with its deviation, a difference, how many seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def plain(cell: Mapping[str, float] | None, digits: int) -> str:
    """Mean ± standard deviation, the single value that there is, or a dash for none."""
    if cell is None:
        return "–"
    spread = f" ± {cell['std']:.{digits}f}" if cell["n"] > 1 else ""
    return f"{cell['mean']:.{digits}f}{spread}"


def signed(cell: Mapping[str, float] | None, digits: int) -> str:
    """The same of differences."""
    return ("+" if cell is not None and cell["mean"] >= 0 else "") + plain(cell, digits)


def seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many; of rows that differ, the fewest and the most."""
    counts = sorted({len(row["seeds"]) for row in rows})
    if counts == [1]:
        return "1 seed"
    return "–".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) + " seeds"
