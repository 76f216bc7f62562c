"""Pictures of charts as PNG files, by matplotlib: they need no browser."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressm.errors import MissingExtraError
from compressm.report.charts import Chart, Line
from compressm.report.records import CUT_KINDS
from compressm.report.theme import Theme
from compressm.storage.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# 960 pixels wide, twice of them, so that text is sharp on dense screens.
_WIDTH, _HEIGHT, _DPI = 9.6, 6.2, 200
# Lines in the legend of a panel.
_NAMED = 8


def write_png(charts: Sequence[Chart], path: Path, theme: Theme) -> None:
    """Draw charts over the same steps below each other.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    with _quiet():
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError("matplotlib", "report") from error
        figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=theme.paper)
        panels = figure.subplots(len(charts), 1, sharex=True, squeeze=False)[:, 0]
        for axes, chart in zip(panels, charts, strict=True):
            _draw(axes, chart, theme, named=axes is panels[0])
        panels[-1].set_xlabel("training step", color=theme.ink)
        figure.align_ylabels(panels)
        figure.tight_layout()
        content = io.BytesIO()
        figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())


def _draw(axes: Axes, chart: Chart, theme: Theme, *, named: bool) -> None:
    _dress(axes, theme)
    for line in chart.lines:
        _line(axes, line, theme)
    for step in sorted({mark.x for mark in chart.marks if mark.kind in CUT_KINDS}):
        axes.axvline(step, color=theme.muted, linewidth=0.8, linestyle=":")
    axes.set_ylabel(chart.y_title, color=theme.ink)
    axes.set_xlim(0, chart.end * 1.01 or 1)
    if chart.powers and chart.y_range:
        low, high = (round(math.log2(end)) for end in chart.y_range)
        axes.set_yscale("log", base=2)
        axes.set_yticks([2**k for k in range(low, high + 1)])
        axes.set_yticklabels([str(2**k) for k in range(low, high + 1)])
        axes.minorticks_off()
        axes.set_ylim(2 ** (low - 0.15), 2 ** (high + 0.3))
    elif chart.y_range:
        axes.set_ylim(*chart.y_range)
    legend = [line.name for line in chart.lines if line.legend]
    if named and 0 < len(legend) <= _NAMED:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=min(len(legend), 3),
            frameon=False,
            labelcolor=theme.ink,
            fontsize=9,
        )


def _line(axes: Axes, line: Line, theme: Theme) -> None:
    color = theme.ink if line.color < 0 else theme.color(line.color)
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if line.points else {}
    axes.plot(
        line.x,
        [math.nan if value is None else value for value in line.y],
        color=color,
        alpha=0.5 if line.faint else 1.0,
        linewidth=line.width * 0.8,
        linestyle="solid" if line.color < 0 else _DASHES[theme.dash(line.color)],
        drawstyle="steps-post" if line.stairs else "default",
        # A name that begins with _ would not be in the legend, and $ would be set as a formula.
        label=line.name.replace("$", r"\$") if line.legend else "_",
        **style,
    )


_DASHES = {"solid": "solid", "dash": "dashed", "dot": "dotted"}


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, labelcolor=theme.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.muted)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without matplotlib's words about its cache of fonts and where that lies."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
