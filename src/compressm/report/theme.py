"""Colours and layout that all figures share, for light and for dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one background.

    `cycle` is the palette of Okabe and Ito (https://jfly.uni-koeln.de/color), which readers with
    the common kinds of colour blindness can tell apart, in the shades that show on `paper`.
    """

    paper: str
    ink: str
    muted: str
    grid: str
    cycle: tuple[str, ...]

    def color(self, index: int) -> str:
        """The colour of line `index`."""
        return self.cycle[index % len(self.cycle)]

    def dash(self, index: int) -> str:
        """Its dash pattern: colours that come round again are dashed, then dotted."""
        return ("solid", "dash", "dot")[index // len(self.cycle) % 3]

    def layout(self, **more: Any) -> dict[str, Any]:
        """Keywords for `figure.update_layout`."""
        return {
            "paper_bgcolor": self.paper,
            "plot_bgcolor": self.paper,
            "font": {"family": "Helvetica, Arial, sans-serif", "size": 14, "color": self.ink},
            "hovermode": "x unified",
            "hoverlabel": {"bgcolor": self.paper},
            **more,
        }

    def axis(self, **more: Any) -> dict[str, Any]:
        """Keywords for `figure.update_xaxes` and `update_yaxes`."""
        return {
            "gridcolor": self.grid,
            "linecolor": self.muted,
            "zeroline": False,
            "ticks": "outside",
            "tickcolor": self.muted,
            **more,
        }

    def ramp(self, count: int) -> list[str]:
        """`count` colours in an order, from muted to the first of the cycle."""
        first, last = _channels(self.grid), _channels(self.cycle[0])
        # The muted end itself would be hard to see.
        shares = [(i + 1) / count for i in range(count)]
        return [
            "#" + "".join(f"{round(a + s * (b - a)):02x}" for a, b in zip(first, last, strict=True))
            for s in shares
        ]


def _channels(color: str) -> list[int]:
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2328",
    muted="#6e7781",
    grid="#e4e8ec",
    cycle=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    paper="#0d1117",
    ink="#e6edf3",
    muted="#8b949e",
    grid="#262c34",
    cycle=("#56b4e9", "#e69f00", "#2bc79a", "#e59ac4", "#f0e442", "#d98a5b"),
)
