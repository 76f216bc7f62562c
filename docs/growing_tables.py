"""The tables of the page on growing: where sizes end, how good and how dear, and on which way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import listings
import summaries
from cells import plain

from compressm.experiments import grouped

Json = dict[str, Any]


def summary(folder: Path, experiment: str) -> Json:
    """Figures of the model that validation chose, by arm and first size, and sizes by seed."""
    found = summaries.results_of(folder, experiment)
    rows = []
    for (arm, *sizes), group in grouped(found, ("states", "kept")).items():
        first = next(size for size in sizes if size is not None)
        figures = [r["figures"] for r in group]
        rows.append(
            {
                "arm": arm,
                "first": int(first),
                "seeds": [r["seed"] for r in group],
                "ways": [_way(int(first), f.get("sizes", [])) for f in figures],
                "val": summaries.over(f["chosen"]["val_accuracy_percent"] for f in figures),
                "test": summaries.over(f["chosen"]["test_accuracy_percent"] for f in figures),
                "processor": summaries.over(f["train_processor_seconds"] for f in figures),
                "wall": summaries.over(f["train_seconds"] for f in figures),
            }
        )
    rows.sort(key=lambda row: (row["arm"], row["first"]))
    return {"rows": rows, "steps": found[0]["figures"]["last"]["step"]}


def _way(first: int, sizes: list[Json]) -> list[tuple[int, int]]:
    """(step, states) of every change, the first size at step 0; layers together."""
    way = [(0, first)]
    for entry in sizes:
        states = max(n for name, n in entry.items() if name != "step")
        if states != way[-1][1]:
            way.append((entry["step"], states))
    return way


def growing(results: Json) -> str:
    """One row for each way to a size: its states, accuracy, and what the training took."""
    rows = []
    for row in results["rows"]:
        last = sorted({way[-1][1] for way in row["ways"]})
        ends = f"{last[0]}" if len(last) == 1 else f"{last[0]} … {last[-1]}"
        rows.append(
            [
                f"{row['first']}, {_NAMES[row['arm']]}",
                ends,
                plain(row["val"], 1),
                plain(row["test"], 1),
                plain(row["processor"], 0),
                plain(row["wall"], 0),
                str(row["val"]["n"]),
            ]
        )
    columns = ["states at the start", "at the end", "validation", "test"]
    columns += ["processor s", "wall s", "seeds"]
    return (
        f"{listings.table(columns, rows)}\n\nAccuracy in percent of the model that validation "
        f"chose after the last point, mean ± standard deviation over seeds, {results['steps']:,} "
        "steps. Processor time counts training steps and events; the wall clock ran on a loaded "
        f"machine and says little. {results['source']}"
    )


def ways(results: Json) -> str:
    """States over the steps, run by run."""
    rows = [
        [f"{row['first']}, seed {seed}", ", ".join(_said(way))]
        for row in results["rows"]
        if row["arm"] == "elastic"
        for seed, way in sorted(zip(row["seeds"], row["ways"], strict=True))
    ]
    return f"{listings.table(['start', 'states'], rows)}\n\n{results['source']}"


def _said(way: list[tuple[int, int]]) -> Iterator[str]:
    for step, states in way:
        yield f"{states} at step {step:,}" if step else f"{states}"


_NAMES = {"elastic": "elastic", "scratch": "fixed"}
