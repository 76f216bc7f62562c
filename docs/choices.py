"""Our choices one after the other: experiment `ablation-choices`, one table a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import listings
from cells import plain, signed
from summaries import Json, Result, over, results_of

_METHOD = "gradient-data"
Test = Callable[[Result], bool]


def _method(name: str) -> Test:
    return lambda r: r["arm"] == "method" and r["settings"]["method"] == name


def _arm(arm: str, **settings: Any) -> Test:
    return lambda r: (
        r["arm"] == arm and all(r["settings"][key] == value for key, value in settings.items())
    )


def _level(rule: str) -> Test:
    return lambda r: (
        r["arm"].startswith("one-level") and r["settings"]["policy"].get("rule") == rule
    )


def _energy(tolerance: float) -> Test:
    return lambda r: r["arm"] == "own-level" and r["settings"]["policy"]["tolerance"] == tolerance


# question: the ways that are compared, each with what tells its runs; the default first
QUESTIONS: dict[str, list[tuple[str, Test]]] = {
    "map": [
        ("real map, `real-pairs`", _method("real-pairs")),
        ("complex system, `published`", _method("published")),
    ],
    "gramians": [
        ("real inputs and loss gradient, `gradient`", _method("gradient")),
        ("real inputs, `empirical`", _method("empirical")),
        ("white noise, all time, `real-pairs`", _method("real-pairs")),
        ("white noise, as long as the data, `real-pairs-finite`", _method("real-pairs-finite")),
    ],
    "refit": [
        ("readout on data, `gradient-data`", _method(_METHOD)),
        ("none, `gradient`", _method("gradient")),
        ("poles, inputs and readout, `gradient-fit`", _method("gradient-fit")),
    ],
    "refit-without-data": [
        ("H2-optimal readout, `real-pairs-h2`", _method("real-pairs-h2")),
        ("none, `real-pairs`", _method("real-pairs")),
    ],
    "moments": [
        ("follow the change of basis", _method(_METHOD)),
        ("start anew", _arm("moments", transport="reset")),
        ("first entries, as published", _arm("moments", transport="slice")),
    ],
    "cuts": [
        ("1 cut", _method(_METHOD)),
        *((f"{n} cuts", _arm("cuts", cuts=n)) for n in (2, 4, 8)),
    ],
    "window": [
        ("at 10 %", _method(_METHOD)),
        *((f"at {100 * at:.0f} %", _arm("window", at=at)) for at in (0.02, 0.05, 0.25, 0.5)),
    ],
    "settled": [
        ("at 10 %", _method(_METHOD)),
        ("when the ranks have settled", _arm("settled")),
    ],
    "level": [
        ("as many in every layer", _arm("same-size")),
        *(
            (f"one level for all, by `{rule}`", _level(rule))
            for rule in ("energy", "error", "prefix")
        ),
        ("each loses 5 % of its own energy", _energy(0.05)),
        ("each loses 20 % of its own energy", _energy(0.2)),
    ],
}


def summary(folder: Path, *experiments: str) -> Json:
    """Accuracies by question, way and number of states in all layers together; a way that has its
    own sizes stands by itself.

    "gain" is what a way has more than the default of its question in validation accuracy, over all
    sizes that both have, seed by seed.
    """
    found = [run for experiment in experiments for run in results_of(folder, experiment)]
    return {
        "questions": {question: _question(ways, found) for question, ways in QUESTIONS.items()},
        "full": {
            arm: over(_last(r, "val") for r in found if r["arm"] == arm)
            for arm in ("full", "deep")
            if any(r["arm"] == arm for r in found)
        },
    }


def _question(ways: Sequence[tuple[str, Test]], found: Sequence[Result]) -> list[Json]:
    rows: list[Json] = []
    default: dict[tuple[int, int], float] = {}
    for name, test in ways:
        runs = {(_asked(r), r["seed"]): r for r in found if test(r)}
        values = {key: _last(run, "val") for key, run in runs.items()}
        default = default or values
        row: Json = {"way": name, "cells": {}, "tests": {}, "states": {}}
        for size in sorted({size for size, _ in runs}, reverse=True):
            at = [run for (asked, _), run in runs.items() if asked == size]
            row["cells"][size] = over(_last(run, "val") for run in at)
            row["tests"][size] = over(_last(run, "test") for run in at)
            row["states"][size] = fmean(sum(_left(run)) for run in at)
        steps = [r["figures"]["cut_step"] for r in runs.values() if "cut_step" in r["figures"]]
        row["cut_steps"] = sorted(step for step in steps if step is not None)
        gains = _gains(values, default)
        if gains and name != ways[0][0]:
            row["gain"] = over(gains)
        if runs:
            rows.append(row)
    return rows


def _gains(values: Mapping[Any, float], default: Mapping[Any, float]) -> list[float]:
    """One difference a seed: the mean over the sizes that both have."""
    shared = values.keys() & default.keys()
    seeds = sorted({seed for _, seed in shared})
    return [fmean(values[key] - default[key] for key in shared if key[1] == seed) for seed in seeds]


def table(results: Json, question: str) -> str:
    """One row a way: validation and test accuracy, and the gain over the default.

    Args:
        results: of `summary`.
        question: one of `QUESTIONS`.
    """
    rows = _whole(results["questions"][question])
    if not rows:
        return "*These runs are not there yet.*"
    sizes = sorted({size for row in rows for size in row["cells"]}, reverse=True)
    body = []
    for row in rows:
        cells = [
            plain(row[part][size], 1) if size in row[part] else "–"
            for part in ("cells", "tests")
            for size in sizes
        ]
        name = row["way"] + (f" ({row['states'][0]:.0f} left)" if 0 in row["states"] else "")
        body.append([name, *cells, signed(row["gain"], 1) if "gain" in row else "–"])
    columns = [f"{_size(s)}, {part}" for part in ("validation", "test") for s in sizes]
    n = max(cell["n"] for row in rows for cell in row["cells"].values())
    parts = [
        listings.table(["way", *columns, "gain by validation"], body),
        "",
        f"Accuracy in percent at the last step, mean ± standard deviation over {n} "
        f"seed{'s' if n > 1 else ''}; gains are over the first row, the default when these runs "
        f"were made: means over sizes, seed by seed. {_verdict(rows, n)}{_when(rows)} "
        f"{results['source']}",
    ]
    return "\n".join(parts)


def _whole(rows: Sequence[Json]) -> list[Json]:
    """The ways that as many seeds have run as any of the question."""
    counts = [min(cell["n"] for cell in row["cells"].values()) for row in rows]
    return [row for row, count in zip(rows, counts, strict=True) if count == max(counts)]


def _verdict(rows: Sequence[Json], seeds: int) -> str:
    """The rule: another way becomes the default where its gain is more than its deviation."""
    better = [row for row in rows if "gain" in row and row["gain"]["mean"] > row["gain"]["std"]]
    better = [row for row in better if row["gain"]["n"] > 2]
    if not better:
        return f"No way gains more than the deviation of its gain over {seeds} seeds."
    best = max(better, key=lambda row: row["gain"]["mean"])
    return f"More than the deviation is gained by: {best['way']}."


def _when(rows: Sequence[Json]) -> str:
    steps = [step for row in rows for step in row["cut_steps"]]
    return f" Settled at steps {', '.join(map(str, steps))}." if steps else ""


def _size(size: int) -> str:
    return f"{size} states" if size else "own size"


def _asked(result: Result) -> int:
    """States of all layers together that were asked for; 0 where an energy was."""
    settings = result["settings"]
    if settings.get("kept") is not None:
        return int(settings["kept"]) * int(result["configuration"]["model"]["depth"])
    limit = settings["policy"].get("limit")
    return 0 if limit is None else int(limit) // 8


def _left(result: Result) -> list[int]:
    return list(result["figures"]["states"].values())


def _last(result: Result, part: str) -> float:
    return float(result["figures"]["last"][f"{part}_accuracy_percent"])
