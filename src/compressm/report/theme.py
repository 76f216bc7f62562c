"""Colours that all figures share, for light and for dark pages."""

from __future__ import annotations

from dataclasses import dataclass


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
    warning: str
    cycle: tuple[str, ...]

    def color(self, index: int) -> str:
        """The colour of line `index`."""
        return self.cycle[index % len(self.cycle)]

    def dash(self, index: int) -> str:
        """Its dash pattern: colours that come round again are dashed, then dotted."""
        return ("solid", "dash", "dot")[index // len(self.cycle) % 3]

    def css(self) -> str:
        """The colours as custom properties of a style sheet; a page's script reads them there."""
        named = {
            "paper": self.paper,
            "ink": self.ink,
            "muted": self.muted,
            "grid": self.grid,
            "warning": self.warning,
            **{f"line-{i}": color for i, color in enumerate(self.cycle)},
        }
        return "".join(f"--{name}:{color};" for name, color in named.items())


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2328",
    muted="#6e7781",
    grid="#e4e8ec",
    warning="#b3261e",
    cycle=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    paper="#0d1117",
    ink="#e6edf3",
    muted="#8b949e",
    grid="#262c34",
    warning="#ff8a80",
    cycle=("#56b4e9", "#e69f00", "#2bc79a", "#e59ac4", "#f0e442", "#d98a5b"),
)
