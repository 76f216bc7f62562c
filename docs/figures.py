"""Figures of the pages as SVG files, from summaries of experiments."""

from __future__ import annotations

import math
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
    ticks = round_ticks(min(means), max(means))
    low, high = ticks[0], ticks[-1]

    def x(size: int) -> float:
        return _LEFT + _WIDTH * (sizes.index(size) + 0.5) / len(sizes)

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (high - min(max(value, low), high)) / (high - low)

    parts = [_axes(sizes, x, y, ticks, y_label)]
    others = sorted((name for name in named if name != ours), key=lambda name: _place(named[name]))
    order = [*others, *([ours] if ours in named else [])]
    if level:
        at, row = y(level["mean"]), _TOP + 10 + 18 * len(order)
        left = _LEFT + _WIDTH + 20
        for line in ([(_LEFT, at), (_LEFT + _WIDTH, at)], [(left, row), (left + 24, row)]):
            parts.append(stroke(line, "#444444", dash="1 4"))
        parts.append(words(left + 30, row + 4, "never cut"))
    for place, name in enumerate(order):
        colour = _OURS if name == ours else _COLOURS[place % len(_COLOURS)]
        dash = "" if name == ours else _DASHES[place // len(_COLOURS) % len(_DASHES)]
        points = [(x(s), y(named[name][s]["mean"])) for s in sizes if s in named[name]]
        parts.append(stroke(points, colour, dash=dash, width=3.0 if name == ours else 1.6))
        for size, cell in named[name].items():
            ends = [(x(size), y(cell["mean"] + sign * cell["std"])) for sign in (-1, 1)]
            parts.append(stroke(ends, colour, width=1.0))
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        row = _TOP + 10 + 18 * (len(order) - 1 - place)
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


def round_ticks(low: float, high: float) -> list[float]:
    """Four to nine multiples of 1, 2 or 5 times a power of ten, around both ends."""
    if high <= low:
        high = low + 1.0
    steps = (base * 10.0**power for power in range(-6, 9) for base in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, last + 1)]


def _place(way: Mapping[int, Mapping[str, float]]) -> tuple[int, float]:
    """The worst at the smallest size comes first: it is drawn first, and listed last."""
    smallest = min(way)
    return -smallest, way[smallest]["mean"]


def _axes(sizes: Sequence[int], x: Any, y: Any, ticks: Sequence[float], label: str) -> str:
    bottom = _TOP + _HEIGHT
    parts = [
        stroke([(_LEFT, y(tick)), (_LEFT + _WIDTH, y(tick))], "#e4e4e4", width=1.0)
        for tick in ticks[1:]
    ]
    parts.append(stroke([(_LEFT, _TOP), (_LEFT, bottom), (_LEFT + _WIDTH, bottom)], "#888888"))
    parts += [words(_LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end") for tick in ticks]
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
