"""Which schedule a model that is cut was trained by, chosen by validation on a seed of its own."""

from __future__ import annotations

from pathlib import Path

import listings
from summaries import Json, results_of


def summary(folder: Path, experiment: str) -> Json:
    """Chosen models by variant of the recipe and states kept; one seed, the best first."""
    found: dict[str, dict[int, Json]] = {}
    for run in results_of(folder, experiment):
        row = found.setdefault(run["axes"]["variant"], {"optim": run["configuration"]["optim"]})
        row["dropout"] = run["configuration"]["model"]["dropout"]
        row[run["settings"]["kept"]] = run["figures"]["chosen"]
    sizes = sorted({key for row in found.values() for key in row if isinstance(key, int)})
    rows = sorted(found.values(), key=lambda row: -row[sizes[0]]["val_accuracy_percent"])
    return {"rows": rows, "sizes": sizes}


def table(results: Json) -> str:
    """One row a schedule: its settings, then validation and test accuracy for each size."""
    sizes = results["sizes"]
    body = [
        [
            f"{row['optim']['lr']:g}",
            row["optim"]["decay"],
            f"{row['optim']['ssm_lr_factor']:g}",
            f"{row['dropout']:g}",
            *(_accuracy(row, size, part) for size in sizes for part in ("val", "test")),
        ]
        for row in results["rows"]
    ]
    columns = [f"{size} states, {part}" for size in sizes for part in ("validation", "test")]
    names = ["rate", "decay", "of states", "dropout", *columns]
    note = (
        "Accuracy in percent of the model that validation chose, one seed; of states: the factor "
        f"of their rate. {results['source']}"
    )
    return "\n".join([listings.table(names, body), "", note])


def _accuracy(row: Json, size: int, part: str) -> str:
    return f"{row[size][f'{part}_accuracy_percent']:.1f}" if size in row else "–"
