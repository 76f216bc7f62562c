"""Settings of other people's ways, chosen for them by validation on a seed of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import listings
from summaries import Json, Result, results_of

_PARTS = ("val", "test")


def weights(folder: Path, experiment: str) -> Json:
    """Chosen models of the regulariser: by weight, and by what else it was run with; one seed."""
    return _grid(
        folder,
        experiment,
        "hankel-nuclear-norm",
        row=lambda settings: (settings["weight"],),
        column=lambda settings: (settings["every"], settings["at"], settings["kept"]),
    )


def rates(folder: Path, experiment: str) -> Json:
    """Chosen models of fine-tuning: by rate and decay, and by cut and size; one seed."""
    return _grid(
        folder,
        experiment,
        "post-training",
        row=lambda settings: (settings["rate"], settings["decay"]),
        column=lambda settings: (settings["method"], settings["kept"]),
    )


def _grid(
    folder: Path,
    experiment: str,
    kind: str,
    *,
    row: Callable[[Json], tuple[Any, ...]],
    column: Callable[[Json], tuple[Any, ...]],
) -> Json:
    cells: dict[tuple[Any, ...], dict[tuple[Any, ...], Json]] = {}
    for run in results_of(folder, experiment):
        if run["kind"] == kind:
            settings = _settings(run)
            cells.setdefault(row(settings), {})[column(settings)] = run["figures"]["chosen"]
    columns = list(dict.fromkeys(c for found in cells.values() for c in found))
    return {"cells": dict(sorted(cells.items())), "columns": sorted(columns, key=_order)}


def _order(column: tuple[Any, ...]) -> tuple[Any, ...]:
    """By everything but the size, then the larger sizes first."""
    *rest, kept = column
    return *rest, -kept


def _settings(run: Result) -> Json:
    return {**run["settings"], **run["axes"]}


def weights_table(results: Json) -> str:
    """One row a weight: validation and test accuracy after the cut, for each way of using it."""
    if not results["cells"]:
        return f"*No weight was tried yet.* {results['source']}"
    names = [
        f"{'every step' if every == 1 else f'every {every} steps'}, "
        f"{'at the end' if at == 1 else f'at {100 * at:.0f} %'}, {kept} states"
        for every, at, kept in results["columns"]
    ]
    body = [
        [f"{weight:g}", *(_both(found.get(column)) for column in results["columns"])]
        for (weight,), found in results["cells"].items()
    ]
    note = (
        "Validation / test accuracy in percent of the model that validation chose, by how often "
        f"there is a penalty, when it is cut, and size; one seed. {results['source']}"
    )
    return "\n".join([listings.table(["weight", *names], body), "", note])


def rates_table(results: Json) -> str:
    """One row a rate and its decay: the mean over cuts and sizes, then each of them."""
    if not results["cells"]:
        return f"*No rate was tried yet.* {results['source']}"
    columns = results["columns"]
    names = [f"`{method}`, {kept} states" for method, kept in columns]
    body = [
        [
            f"{rate:g}",
            decay,
            _mean([found.get(column) for column in columns]),
            *(_both(found.get(column)) for column in columns),
        ]
        for (rate, decay), found in results["cells"].items()
    ]
    note = (
        "Validation / test accuracy in percent of the model that validation chose, one seed; rate: "
        "that of the tenth of the steps after the cut, as a share of the recipe's; mean: of "
        f"validation. {results['source']}"
    )
    return "\n".join([listings.table(["rate", "decay", "mean", *names], body), "", note])


def _both(cell: Json | None) -> str:
    if cell is None:
        return "–"
    return " / ".join(f"{cell[f'{part}_accuracy_percent']:.1f}" for part in _PARTS)


def _mean(cells: list[Json | None]) -> str:
    """Over all columns; a dash where one is missing."""
    known = [cell["val_accuracy_percent"] for cell in cells if cell is not None]
    return f"{sum(known) / len(known):.1f}" if len(known) == len(cells) else "–"
