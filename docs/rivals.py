"""What the pages show of experiments that compare ways to a small model, from their files alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from summaries import Json, Result, over, results_of

from compressm.experiments import spent_until

_OURS = "cut"
_ACCURACY = "val_accuracy_percent"
# What a file says of joules that are an estimate (`compressm.train.energy`).
_RATED = re.compile(
    r"estimated: this process's share of processor time at ([\d.]+) W for all cores"
)


def summary(folder: Path, experiment: str) -> Json:
    """Every way by size: accuracy at equal steps and at equal seconds, and what it cost.

    A cell that not all seeds have run is left out, so that all means are of the same seeds.
    """
    found = results_of(folder, experiment)
    groups: dict[tuple[Any, ...], dict[Any, list[Result]]] = {}
    for result in found:
        axes = {key: value for key, value in result["axes"].items() if key != "kept"}
        cells = groups.setdefault((result["arm"], *sorted(axes.items())), {})
        cells.setdefault(_size(result), []).append(result)
    every = _seeds(found)
    sizes = sorted({s for (arm, *_), c in groups.items() if arm != "full" for s in c}, reverse=True)
    ours = {(_size(r), r["seed"]): r for r in found if r["arm"] == _OURS}
    rows = []
    for (arm, *axes), cells in groups.items():
        if arm == "full":  # of every size's column the same runs
            cells = dict.fromkeys(sizes, next(iter(cells.values())))
        whole = {size: group for size, group in cells.items() if _seeds(group) == every}
        row: Json = {"arm": arm, "axes": dict(axes)}
        row["test"] = _means(whole, _accuracy)
        row["seconds"] = _means(whole, _seconds)
        row["step"] = _means(whole, step_milliseconds)
        row["joules"] = _means(whole, joules)
        for key, beside in (
            ("over", _ours_over),
            ("equal_seconds", _by_then),
            ("seconds_to", _until),
            ("joules_to", _joules_until),
        ):
            pairs = {
                size: [(r, ours.get((size, r["seed"]))) for r in group]
                for size, group in whole.items()
            }
            row[key] = _means(pairs, lambda pair, beside=beside: pair[1] and beside(*pair))
        rows.append(row)
    first = found[0]
    return {
        "rows": sorted(rows, key=_place),
        "sizes": sizes,
        "full_size": first["configuration"]["model"]["state_dim"],
        "steps": first["configuration"]["trainer"]["steps"],
        "seeds": len(every),
    }


def _seeds(results: Iterable[Result]) -> set[int]:
    return {result["seed"] for result in results}


def _place(row: Json) -> tuple[Any, ...]:
    """The full model first, then ours, then the others, the best over all sizes first."""
    first = {"full": 0, _OURS: 1}.get(row["arm"], 2)
    tests = [cell["mean"] for cell in row["test"].values()]
    mean = sum(tests) / len(tests) if tests else 0.0
    return first, -mean, row["arm"], *map(str, row["axes"].values())


def _size(result: Result) -> int:
    """States that every layer ends with."""
    kept = {**result["settings"], **result["axes"]}.get("kept")
    return int(result["configuration"]["model"]["state_dim"] if kept is None else kept)


def _accuracy(result: Result) -> float:
    return float(result["figures"]["chosen"]["test_accuracy_percent"])


def _seconds(result: Result) -> float:
    """Of processor time: several runs may have shared the machine."""
    return float(result["figures"]["train_processor_seconds"])


def step_milliseconds(result: Result) -> float | None:
    """Of processor time, on average: at the final size, and of a cut at the end before it."""
    figures = result["figures"]
    rows = zip(figures["curve"], figures["curve_processor_seconds"], strict=True)
    known = [(row["step"], seconds) for row, seconds in rows]
    last = [at for at in known if at[0] >= figures["last_cut_step"]]
    chosen = last if len(last) > 1 else known
    steps = chosen[-1][0] - chosen[0][0]
    return 1e3 * (chosen[-1][1] - chosen[0][1]) / steps if steps else None


def joules(result: Result) -> float | None:
    """Of processor and accelerator, in the seconds of training.

    Where nothing measured them they are an estimate from processor time, so here they are that of
    the training; where something did, mean power of the run times the seconds of its training.
    The run itself may have begun from a trunk, or with a teacher, that another run has trained.
    Memory is left out: where nothing measures it, its power is a constant of the machine.
    """
    found = result.get("energy")
    if not found:
        return None
    rated = _RATED.match(found["method"])
    if rated:
        return _seconds(result) * float(rated[1]) / result["machine"]["cores"]
    power = (found["joules"] - found["memory_joules"]) / found["seconds"]
    return power * float(result["figures"]["train_seconds"])


def lines(result: Result) -> list[Json]:
    """Validation accuracy of the models that have the final size, and what was spent until then.

    Seconds of processor time, and where they were counted joules: the run's own share of its
    seconds.
    """
    figures, spent = result["figures"], joules(result)
    rows = zip(figures["curve"], figures["curve_processor_seconds"], strict=True)
    found: list[Json] = []
    for row, seconds in rows:
        if row["step"] >= figures["last_cut_step"]:
            line = {"seconds": seconds, _ACCURACY: row[_ACCURACY]}
            if spent is not None:
                line["joules"] = spent * seconds / _seconds(result)
            found.append(line)
    return found


def _ours_over(result: Result, ours: Result) -> float:
    """Points of test accuracy by which our run is better."""
    return _accuracy(ours) - _accuracy(result)


def _by_then(result: Result, ours: Result) -> float | None:
    """The best validation accuracy by the second at which our run had ended."""
    budget = _seconds(ours)
    by_then = (line[_ACCURACY] for line in lines(result) if line["seconds"] <= budget)
    return max(by_then, default=None)


def _until(result: Result, ours: Result) -> float | None:
    """Seconds until a validation accuracy is at most a point below the best of our run."""
    return spent_until(lines(result), _level(ours), spent="seconds")


def _joules_until(result: Result, ours: Result) -> float | None:
    """The same in joules."""
    return spent_until(lines(result), _level(ours))


def _level(ours: Result) -> float:
    return float(max(line[_ACCURACY] for line in lines(ours))) - 1.0


def _mean(values: Iterable[float | None]) -> Json | None:
    values = list(values)
    known = [value for value in values if value is not None]
    return over(known) if known and len(known) == len(values) else None


def _means(cells: Mapping[Any, list[Any]], figure: Any) -> Json:
    found = {size: _mean(map(figure, group)) for size, group in cells.items()}
    return {size: cell for size, cell in found.items() if cell is not None}
