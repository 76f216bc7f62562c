"""Figures of the pages as SVG files, from summaries of experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Json = dict[str, Any]

# Ours is drawn last, thick and dark; the others in colours that also differ in lightness.
_OURS = "#0b3d91"
_COLOURS = ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#888888", "#1f9ac9")
_DASHES = ("", "6 3", "2 3")
_LEFT, _TOP, _WIDTH, _HEIGHT, _LEGEND = 60, 20, 420, 360, 330


def lines(
    named: Mapping[str, Mapping[int, Mapping[str, float]]],
    sizes: Sequence[int],
    *,
    ours: str,
    level: Mapping[str, float] | None,
    y_label: str,
) -> str:
    """Mean by size, one line a way, with bars of one deviation; a dashed level across.

    Args:
        named: by way and size the mean and the deviation.
        sizes: in the order of the axis, one equal step each.
        ours: the way to stand out.
        level: of the model that is never cut.
        y_label: with its unit.
    """
    cells = [cell for way in named.values() for cell in way.values()]
    means = [cell["mean"] for cell in cells] + ([level["mean"]] if level else [])
    low, high = min(means), max(means)
    low, high = low - 0.06 * (high - low or 1.0), high + 0.06 * (high - low or 1.0)

    def x(size: int) -> float:
        return _LEFT + _WIDTH * (sizes.index(size) + 0.5) / len(sizes)

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (high - min(max(value, low), high)) / (high - low)

    parts = [_axes(sizes, x, y, low, high, y_label)]
    if level:
        at = y(level["mean"])
        parts.append(stroke([(_LEFT, at), (_LEFT + _WIDTH, at)], "#444444", dash="1 4"))
    order = [*(name for name in named if name != ours), *([ours] if ours in named else [])]
    for place, name in enumerate(order):
        colour = _OURS if name == ours else _COLOURS[place % len(_COLOURS)]
        dash = "" if name == ours else _DASHES[place // len(_COLOURS) % len(_DASHES)]
        points = [(x(s), y(named[name][s]["mean"])) for s in sizes if s in named[name]]
        parts.append(stroke(points, colour, dash=dash, width=3.0 if name == ours else 1.6))
        for size, cell in named[name].items():
            ends = [(x(size), y(cell["mean"] + sign * cell["std"])) for sign in (-1, 1)]
            parts.append(stroke(ends, colour, width=1.0))
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        row = _TOP + 10 + 18 * place
        left = _LEFT + _WIDTH + 20
        parts.append(stroke([(left, row), (left + 24, row)], colour, dash=dash, width=2.4))
        parts.append(words(left + 30, row + 4, name))
    width, height = _LEFT + _WIDTH + _LEGEND, _TOP + _HEIGHT + 50
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _axes(sizes: Sequence[int], x: Any, y: Any, low: float, high: float, label: str) -> str:
    bottom = _TOP + _HEIGHT
    parts = [stroke([(_LEFT, _TOP), (_LEFT, bottom), (_LEFT + _WIDTH, bottom)], "#888888")]
    for k in range(5):
        value = low + (high - low) * k / 4
        parts.append(words(_LEFT - 8, y(value) + 4, f"{value:.1f}", anchor="end"))
    parts += [words(x(size), bottom + 18, str(size), anchor="middle") for size in sizes]
    parts.append(words(_LEFT + _WIDTH / 2, bottom + 38, "states of every layer", anchor="middle"))
    turned = f'transform="rotate(-90 14 {_TOP + _HEIGHT / 2})"'
    parts.append(words(14, _TOP + _HEIGHT / 2, label, anchor="middle", more=turned))
    return "\n".join(parts)


def stroke(
    points: Sequence[tuple[float, float]], colour: str, *, dash: str = "", width: float = 1.2
) -> str:
    """A line through points."""
    drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'
    )


def words(x: float, y: float, text: str, *, anchor: str = "start", more: str = "") -> str:
    """A text at a point."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
