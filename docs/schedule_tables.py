"""Which schedule models were trained by, chosen by validation on a seed of its own."""

from __future__ import annotations

from pathlib import Path

import listings
from summaries import Json, results_of

# A column: the kind of run, and the states that it ends with, 0 where it is never cut.
Column = tuple[str, int]
_PARTS = ("val", "test")
_WAYS = {"cut": "cut", "full": "never cut", "scratch": "from scratch"}


def summary(folder: Path, experiment: str) -> Json:
    """Chosen models by variant of the recipe, way and states kept; one seed, the best first."""
    found: dict[str, Json] = {}
    for run in results_of(folder, experiment):
        if run["kind"] not in _WAYS:
            continue
        row = found.setdefault(run["axes"]["variant"], {"cells": {}})
        row["optim"] = run["configuration"]["optim"]
        row["dropout"] = run["configuration"]["model"]["dropout"]
        row["cells"][run["kind"], run["settings"].get("kept", 0)] = run["figures"]["chosen"]
    columns = sorted({column for row in found.values() for column in row["cells"]})
    rows = sorted(found.values(), key=lambda row: -_validation(row, columns[0]))
    return {"rows": rows, "columns": columns}


def _validation(row: Json, column: Column) -> float:
    return float(row["cells"][column]["val_accuracy_percent"])


def table(results: Json) -> str:
    """One row a schedule: its settings, then validation and test accuracy for each column."""
    columns = results["columns"]
    body = [
        [
            f"{row['optim']['lr']:g}",
            row["optim"]["decay"],
            f"{row['optim']['ssm_lr_factor']:g}",
            f"{row['dropout']:g}",
            *(_accuracy(row, column, part) for column in columns for part in _PARTS),
        ]
        for row in results["rows"]
    ]
    of = [(f"{size} states " if size else "") + _WAYS[kind] for kind, size in columns]
    named = [f"{way}, {part}" for way in of for part in ("validation", "test")]
    names = ["rate", "decay", "of states", "dropout", *named]
    note = (
        "Accuracy in percent of the model that validation chose, one seed; of states: the factor "
        f"of their rate. {results['source']}"
    )
    return "\n".join([listings.table(names, body), "", note])


def _accuracy(row: Json, column: Column, part: str) -> str:
    cell = row["cells"].get(column)
    return "–" if cell is None else f"{cell[f'{part}_accuracy_percent']:.1f}"
