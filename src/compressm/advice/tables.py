"""The tables of an advice: cells for the terminal, and plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from compressm.advice.rows import CutAdvice, LayerAdvice

MISSING = "–"
# Where all numbers of a column are below these, it has more digits, or exponents; a number above
# the last has an exponent for itself.
_PLAIN, _SMALL, _LARGE = 10.0, 0.01, 1e6
# Titles of the columns about cuts, but for that of the metric.
_TITLES = (
    *("cut", "method", "states", "parameters", "bytes", "MB", "ms", "× now"),
    *("loss", "rise", "error", "holds"),
)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A table; the first column is a name, the others are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def without(self, *titles: str) -> Cells:
        """The table without some of its columns."""
        kept = [i for i, title in enumerate(self.columns) if title not in titles]
        return Cells(
            columns=tuple(self.columns[i] for i in kept),
            rows=tuple(tuple(row[i] for i in kept) for row in self.rows),
        )


LAYER_LEGEND = (
    "fewest: states that a cut can leave. par., bytes: what each state costs. −5%: states that "
    "stay when so much of the energy is dropped."
)


def layer_table(layers: Sequence[LayerAdvice], names: Mapping[str, str] | None = None) -> Cells:
    """Layers with what their states cost, and how many stay; those that are alike share a line.

    Args:
        layers: of one model.
        names: how they are called; None: by their paths.
    """
    methods = list(dict.fromkeys(m for layer in layers for m in layer.keeps))
    shares = list(dict.fromkeys(s for layer in layers for k in layer.keeps.values() for s in k))
    rows = []
    for method in methods:
        for cells, alike in groupby(layers, key=lambda one: _layer_cells(one, method, shares)):
            called = [(names or {}).get(one.site) or one.site or "(model)" for one in alike]
            first = called[0]
            if len(called) > 1:
                first = f"{first} … {called[-1]} ({len(called)})"
            rows.append((first, *([method] if len(methods) > 1 else []), *cells))
    return Cells(
        columns=(
            "layer",
            *(["method"] if len(methods) > 1 else []),
            *("family", "states", "fewest", "par.", "bytes"),
            *(f"−{share:.0%}" for share in shares),
        ),
        rows=tuple(rows),
    )


def _layer_cells(layer: LayerAdvice, method: str, shares: Sequence[float]) -> tuple[str, ...]:
    kept = [MISSING if layer.reason else str(layer.keeps[method][share]) for share in shares]
    costs = f"{layer.parameters:,}", f"{layer.state_bytes:,}"
    return (layer.family, str(layer.states), str(layer.fewest), *costs, *kept)


def each_table(
    layers: Sequence[LayerAdvice],
    present: CutAdvice,
    *,
    judged: bool,
    names: Mapping[str, str] | None = None,
) -> Cells:
    """What cuts of single layers do to the loss, or to the metric where there is no loss.

    Args:
        layers: of one model.
        present: the model as it is.
        judged: whether there is a limit on loss or metric.
        names: how they are called; None: by their paths.
    """
    figure = "metric" if present.loss is None else "loss"
    cuts = [cut for layer in layers for alone in layer.alone.values() for cut in alone]
    form = _form([getattr(cut, figure) for cut in (present, *cuts)], 4 if figure == "loss" else 2)

    def cell(site: str, cut: CutAdvice | None) -> str:
        if cut is None:
            return MISSING
        after = getattr(cut, figure)
        change = None if after is None else after - getattr(present, figure)
        return f"{cut.states[site]}: {_number(change, f'+{form}')}"

    titles = ("holds down to", "breaks at") if judged else ("½", "¼", "⅛")
    methods = list(dict.fromkeys(method for layer in layers for method in layer.alone))
    rows = []
    for method in methods:
        for layer in layers:
            called = (names or {}).get(layer.site) or layer.site or "(model)"
            found = layer.alone[method]
            shown = [*found, None, None, None][: len(titles)]
            if judged:
                held = [cut for cut in found if cut.holds]
                shown = [held[-1] if held else None, next((c for c in found if not c.holds), None)]
            cells = [cell(layer.site, cut) for cut in shown]
            rows.append((called, *([method] if len(methods) > 1 else []), *cells))
    return Cells(
        columns=("layer", *(["method"] if len(methods) > 1 else []), *titles), rows=tuple(rows)
    )


def cut_table(
    present: CutAdvice,
    cuts: Sequence[CutAdvice],
    best: CutAdvice | None,
    *,
    judged: bool,
    names: Sequence[str] | None = None,
) -> Cells:
    """The model as it is, and all cuts; columns that say nothing are left out.

    Args:
        present: the model as it is.
        cuts: the others.
        best: the one to make.
        judged: whether there is a budget.
        names: of the cuts; None: numbers from 1.
    """
    everything = [present, *cuts]
    losses = _form([cut.loss for cut in everything], 4)
    metrics = _form([cut.metric for cut in everything], 2)
    called = ["now", *(names or map(str, range(1, len(cuts) + 1)))]
    rows = []
    for name, cut in zip(called, everything, strict=True):
        held = "chosen" if cut is best else "yes" if cut.holds else f"no: {', '.join(cut.breaks)}"
        said = held if judged and cut is not present else MISSING
        rows.append(_cut_cells(cut, present, name, said, losses, metrics))
    used = [title for title in rows[0] if any(row[title] != MISSING for row in rows)]
    return Cells(
        columns=tuple(used), rows=tuple(tuple(row[title] for title in used) for row in rows)
    )


def metric_title(present: CutAdvice) -> str:
    """The title of the column of the metric: its name, which must not be that of another."""
    name = present.figures.name
    return f"metric {name!r}" if name in _TITLES else name


def _cut_cells(
    cut: CutAdvice, present: CutAdvice, name: str, held: str, losses: str, metrics: str
) -> dict[str, str]:
    rise = None
    if cut.loss is not None and present.loss is not None and cut is not present:
        rise = cut.loss - present.loss
    return {
        "cut": name,
        "method": cut.method if cut.method not in ("", "auto") else MISSING,
        "states": states_text(cut.states),
        "parameters": f"{cut.parameters:,}",
        "bytes": f"{cut.state_bytes:,}",
        "MB": f"{cut.memory_mb:.3g}" if cut.memory_mb < 100 else f"{cut.memory_mb:,.0f}",
        "ms": _number(cut.milliseconds, ".3g"),
        "× now": _number(cut.time_ratio, ".2f"),
        "loss": _number(cut.loss, losses),
        "rise": _number(rise, f"+{losses}"),
        metric_title(present): _number(cut.metric, metrics),
        "error": MISSING if cut.error is None else f"{100 * cut.error:.3g} %",
        "holds": held,
    }


def states_text(states: Mapping[str, int]) -> str:
    """One number where all layers agree; of a few layers each, of many the range."""
    found = list(states.values())
    if len(set(found)) == 1:
        return str(found[0])
    return ", ".join(map(str, found)) if len(found) <= 3 else f"{min(found)} … {max(found)}"


def _number(value: float | None, form: str) -> str:
    if value is not None and abs(value) >= _LARGE:
        return f"{value:.3g}"
    return MISSING if value is None else format(value, form)


def _form(values: Iterable[float | None], digits: int) -> str:
    """How the numbers of a column are written: so that small ones are not rounded away."""
    largest = max((abs(v) for v in values if v is not None and abs(v) < _LARGE), default=0.0)
    if 0 < largest < _SMALL:
        return ".3e"
    return f".{digits if largest == 0 or largest >= _PLAIN else 4}f"


def plain(cells: Cells) -> str:
    """The table as lines of text."""
    lines = [cells.columns, *cells.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(cells.columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
