"""Small pieces of terminal output."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from compressm.report.comparison import CAPTION as CAPTION
from compressm.report.comparison import COLUMNS, Row
from compressm.report.write import Report

_BARS = "▁▂▃▄▅▆▇█"


def console() -> Console:
    """Standard output, at the terminal's width (80 columns where there is none)."""
    # Names of files and layers may hold brackets, which are no markup.
    return Console(highlight=False, markup=False)


def table(*columns: str) -> Table:
    """An empty table whose first column is a name and whose others are right-aligned."""
    made = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for index, column in enumerate(columns):
        made.add_column(
            column,
            justify="right" if index else "left",
            overflow="fold",
            vertical="top",
        )
    return made


def show(out: Console, title: str, made: Table, note: str) -> None:
    """A table under its title, and below it what its figures mean."""
    if title:
        out.print(title, style="bold")
    out.print(made)
    out.print(f"{note}\n", style="dim")


def comparison(rows: Sequence[Row]) -> Table:
    """Several runs side by side."""
    made = table(*(title for _, title in COLUMNS))
    for row in rows:
        cells = (getattr(row, name) for name, _ in COLUMNS)
        # Two lines for each row are narrow enough for 80 columns.
        made.add_row(*(cell.replace(" → ", "\n→ ") for cell in cells))
    return made


def files(report: Report) -> list[str]:
    """Where the files of a report are."""
    return [f"report   {report.page}", f"picture  {report.pictures[0]}"]


def spark(shares: Sequence[float], width: int) -> str:
    """Shares in [0, 1] as a line of at most `width` bars; several values of a bar are averaged."""
    width = min(width, len(shares))
    bars = []
    for i in range(width):
        # Every value belongs to exactly one bar.
        part = shares[i * len(shares) // width : (i + 1) * len(shares) // width]
        level = math.fsum(part) / len(part)
        bars.append(_BARS[min(int(level * len(_BARS)), len(_BARS) - 1)])
    return "".join(bars)


def number(value: float) -> str:
    """Three significant digits."""
    if value == 0:
        return "0"
    return f"{value:#.3g}".rstrip(".").replace("e-0", "e-").replace("e+0", "e")
