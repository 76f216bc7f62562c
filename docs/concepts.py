"""Pictures of how it works, as SVG files: drawn from a formula or a measurement, never by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from figures import stroke, words

import compressm
from compressm.nn import LRU

_ASSETS = Path(__file__).parent / "assets"
_KEPT, _CUT, _LINE = "#0b3d91", "#d0d3d9", "#444444"


def drawn() -> dict[Path, str]:
    """All of them, by file."""
    pictures: dict[str, Callable[[], str]] = {
        "how-cut": cut,
        "how-spectrum": spectrum,
        "how-run": run,
        "how-steps": steps,
    }
    return {_ASSETS / f"{name}.svg": draw() for name, draw in pictures.items()}


def cut() -> str:
    """The parameters of a layer before and after a cut, and the moments that go with them."""
    before, after, unit, width = 16, 5, 11.0, 44.0
    parts = []
    for left, size, said in ((40.0, before, "before"), (400.0, after, "after")):
        tall = size * unit
        kept = after * unit
        shapes = (("A", left, tall), ("B", left + tall + 20, width))
        for name, x, wide in shapes:
            for shift in (8.0, 0.0):  # the moments lie behind
                parts.append(_box(x + shift, 40 - shift, wide, tall, _CUT, faint=shift > 0))
                inner = kept if name == "A" else wide
                parts.append(_box(x + shift, 40 - shift, inner, kept, _KEPT, faint=shift > 0))
            parts.append(words(x + wide / 2, 40 + tall + 16, name, anchor="middle"))
        below = 40 + tall + 40
        for shift in (8.0, 0.0):
            parts.append(_box(left + shift, below - shift, tall, width, _CUT, faint=shift > 0))
            parts.append(_box(left + shift, below - shift, kept, width, _KEPT, faint=shift > 0))
        parts.append(words(left + tall / 2, below + width + 16, "C", anchor="middle"))
        sizes = f"{said}: {size} states"
        parts.append(words(left, 20, sizes))
    parts += [stroke([(330, 120), (376, 120)], _LINE, width=2), _head(376, 120)]
    parts.append(words(353, 110, "cut", anchor="middle"))
    parts.append(words(530, 150, "behind each parameter: the optimizer's moments,"))
    parts.append(words(530, 166, "carried into the same new coordinates"))
    return _page(820, 340, parts)


def spectrum() -> str:
    """Hankel singular values of an LRU as it is built, and those that hold 90 % of their sum."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (found,) = compressm.measure(LRU(4, 16)).values()
    values = [float(value) for value in found.values]
    kept = found.rank_for_energy(0.1)
    # Of a layer with complex states two values belong to each.
    shown = round(len(values) * kept / found.state_dim)
    low, high = math.floor(math.log10(values[-1])), math.ceil(math.log10(values[0]))
    wide, tall, left, top = 16.0, 200.0, 70.0, 30.0
    parts = []
    for place, value in enumerate(values):
        up = tall * (math.log10(value) - low) / (high - low)
        colour = _KEPT if place < shown else _CUT
        parts.append(_box(left + place * wide, top + tall - up, wide - 3, up, colour))
    for power in range(low, high + 1):
        y = top + tall * (high - power) / (high - low)
        parts.append(words(left - 8, y + 4, f"1e{power}", anchor="end"))
    said = f"{kept} of {found.state_dim} states hold {100 * found.energy(kept):.0f} % of the energy"
    parts.append(words(left + len(values) * wide / 2, top - 10, said, anchor="middle"))
    axis = "Hankel singular values of an LRU with 16 complex states, largest first"
    parts.append(words(left + len(values) * wide / 2, top + tall + 24, axis, anchor="middle"))
    return _page(left + len(values) * wide + 20, top + tall + 40, parts)


def run() -> str:
    """The learning rate of a run with a warm-up of a tenth, and the states with four cuts in it."""
    left, top, wide, tall = 70.0, 30.0, 640.0, 200.0
    share = [step / 200 for step in range(201)]
    rate = [s / 0.1 if s < 0.1 else (1 + math.cos(math.pi * (s - 0.1) / 0.9)) / 2 for s in share]
    points = [(left + wide * s, top + tall * (1 - r)) for s, r in zip(share, rate, strict=True)]
    states, stairs = 64.0, [(left, top)]
    for number in range(1, 5):
        x = left + wide * 0.1 * number / 4
        stairs.append((x, top + tall * (1 - states / 64)))
        states = round(states * 0.65)
        stairs.append((x, top + tall * (1 - states / 64)))
    stairs.append((left + wide, top + tall * (1 - states / 64)))
    parts = [
        stroke([(left, top), (left, top + tall), (left + wide, top + tall)], _LINE),
        stroke(points, "#d95f02", dash="6 3", width=2),
        stroke(stairs, _KEPT, width=3),
        stroke([(left + wide * 0.1, top), (left + wide * 0.1, top + tall)], _LINE, dash="1 4"),
        words(left + wide * 0.1 + 6, top + tall + 18, "end of the warm-up: last cut"),
        words(left + wide, top + tall + 18, "end of training", anchor="end"),
        words(left + 300, top + 30, "learning rate"),
        words(left + 210, stairs[-1][1] - 8, f"states of a layer: 64, and {states:.0f} at the end"),
    ]
    return _page(left + wide + 30, top + tall + 40, parts)


def steps() -> str:
    """What one cut does, one box after the other."""
    boxes = (
        ("measure", "read each layer as a", "state space; see data"),
        ("plan", "the policy says how", "many states stay"),
        ("reduce", "a smaller layer of the", "same kind, refitted"),
        ("commit", "all layers and moments,", "or none of them"),
        ("judge", "with a guard: keep it,", "or put everything back"),
    )
    parts = []
    for place, (name, first, second) in enumerate(boxes):
        x = 20.0 + 168 * place
        parts.append(_outline(x, 30, 140, 84))
        parts.append(words(x + 70, 54, name, anchor="middle", more='font-weight="bold"'))
        parts += [
            words(x + 70, 78, first, anchor="middle"),
            words(x + 70, 94, second, anchor="middle"),
        ]
        if place:
            parts += [stroke([(x - 28, 72), (x - 4, 72)], _LINE, width=2), _head(x - 4, 72)]
    return _page(20 + 168 * len(boxes), 140, parts)


def _box(x: float, y: float, wide: float, tall: float, colour: str, *, faint: bool = False) -> str:
    strength = ' fill-opacity="0.35"' if faint else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}" '
        f'fill="{colour}"{strength}/>'
    )


def _outline(x: float, y: float, wide: float, tall: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}" rx="6" '
        f'fill="#eef2fa" stroke="{_KEPT}"/>'
    )


def _head(x: float, y: float) -> str:
    return f'<path d="M {x:.1f} {y:.1f} l -9 -5 l 0 10 z" fill="{_LINE}"/>'


def _page(wide: float, tall: float, parts: list[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}" '
        f'width="{wide:.0f}" height="{tall:.0f}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
