"""What the page of results says of all experiments together, from their files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import rivals
import run_kinds
from summaries import Json, Result, over, results_of

from compressm.experiments import spent_until

# A level that a run has to come to is so many points below what both runs come to.
MARGIN = 1.0
_ACCURACY = "val_accuracy_percent"


def lost(folder: Path, *experiments: str) -> Json:
    """Every size at which another way is better on average than our default, on the test part.

    Differences are taken seed by seed, of the figure that chose the models. A size that not all
    seeds have run, both ways, is left out.
    """
    losses, compared, own, used = [], 0, 0, []
    for experiment in experiments:
        found = [
            r for r in results_of(folder, experiment) if run_kinds.ends(r) and run_kinds.kept(r)
        ]
        every = run_kinds.seeds(found)
        ours: dict[Any, dict[int, float]] = {}
        others: dict[Any, list[Result]] = {}
        for result in found:
            size = run_kinds.variant(result), run_kinds.kept(result)
            if run_kinds.is_ours(result):
                ours.setdefault(size, {})[result["seed"]] = run_kinds.test_figure(result)
            elif not run_kinds.is_ours_again(result):
                others.setdefault((*size, run_kinds.named(result)), []).append(result)
        for (variant, states, way), group in others.items():
            mine = ours.get((variant, states), {})
            tests = {r["seed"]: run_kinds.test_figure(r) for r in group}
            if len(tests) < len(group):
                raise ValueError(f"{experiment}: two ways are both called {way!r}")
            if not mine or not mine.keys() == every <= tests.keys():
                continue
            compared += 1
            own += run_kinds.is_own(group[0])
            gap = over(tests[seed] - value for seed, value in mine.items())
            if gap["mean"] > 0:
                row = {"experiment": experiment, "variant": variant, "states": states, "way": way}
                losses.append({**row, "gap": gap, "nats": run_kinds.in_nats(group[0])})
        used += [experiment] if ours else []
    losses.sort(key=lambda row: (row["nats"], -row["gap"]["mean"]))
    return {"losses": losses, "compared": compared, "own": own, "experiments": used}


def quarter(folder: Path, *experiments: str) -> Json:
    """Test accuracy at a quarter of the states or fewer: never cut, cut by the default, scratch.

    Differences are taken seed by seed; a size that not all seeds have run is left out.
    """
    rows = []
    for experiment in experiments:
        by_size: dict[int, dict[str, dict[Any, float]]] = {}
        found = [r for r in results_of(folder, experiment) if run_kinds.ends(r)]
        full = {_one(r): run_kinds.test_accuracy(r) for r in found if r["kind"] == "full"}
        most = max((run_kinds.states(r) for r in found if r["kind"] == "full"), default=0)
        for result in found:
            way = _way(result)
            if way and 0 < 4 * run_kinds.kept(result) <= most:
                sizes = by_size.setdefault(-run_kinds.kept(result), {"cut": {}, "scratch": {}})
                sizes[way][_one(result)] = run_kinds.test_accuracy(result)
        for size, ways in sorted(by_size.items()):
            shared = sorted(full.keys() & ways["cut"].keys() & ways["scratch"].keys(), key=str)
            if {seed for _, seed in shared} != run_kinds.seeds(found):
                continue
            row: Json = {"experiment": experiment, "full_states": most, "states": -size}
            for name, tests in (("full", full), *ways.items()):
                row[name] = over(tests[one] for one in shared)
            gains = [ways["cut"][one] - ways["scratch"][one] for one in shared]
            row["gain"], row["better"] = over(gains), sum(gain > 0 for gain in gains)
            row["loss"] = over(ways["cut"][one] - full[one] for one in shared)
            rows.append(row)
    used = list(dict.fromkeys(row["experiment"] for row in rows))
    return {"rows": rows, "experiments": used}


def _way(result: Result) -> str | None:
    if run_kinds.is_ours(result):
        return "cut"
    return "scratch" if result["kind"] == "scratch" else None


def _one(result: Result) -> tuple[str | None, int]:
    return run_kinds.variant(result), result["seed"]


def energy(folder: Path, *experiments: str) -> Json:
    """Joules until equal validation accuracy, full model against the same one cut.

    The level is a point below the lower of the two best accuracies of a seed, of models that have
    their final size. A size that not all seeds have run is left out.
    """
    rows, methods = [], set()
    for experiment in experiments:
        found = [r for r in results_of(folder, experiment) if _has_lines(r)]
        full = {(run_kinds.variant(r), r["seed"]): r for r in found if r["kind"] == "full"}
        sizes: dict[tuple[str, int], list[tuple[Result, Result]]] = {}
        for result in found:
            whole = full.get((run_kinds.variant(result), result["seed"]))
            if run_kinds.is_ours(result) and whole:
                size = run_kinds.variant(result) or "", -run_kinds.kept(result)
                sizes.setdefault(size, []).append((whole, result))
        for (variant, size), pairs in sorted(sizes.items()):
            looks = [_until_equal(*pair) for pair in pairs]
            if None in looks or {r["seed"] for _, r in pairs} != run_kinds.seeds(found):
                continue
            methods |= {r["energy"]["method"] for pair in pairs for r in pair}
            row: Json = {"experiment": experiment, "variant": variant, "states": -size}
            for place, name in enumerate(("full", "cut")):
                row[name] = over(look[place][0] for look in looks)
                row[f"{name}_at_first"] = any(look[place][1] for look in looks)
            row["ratio"] = over(cut / full for (full, _), (cut, _) in looks)
            rows.append(row)
    used = list(dict.fromkeys(row["experiment"] for row in rows))
    return {"rows": rows, "methods": sorted(methods), "experiments": used}


def _has_lines(result: Result) -> bool:
    """Whether joules and accuracies are there; old files have not all of them."""
    figures = result["figures"]
    told = "curve_processor_seconds" in figures and "last_cut_step" in figures
    return told and rivals.joules(result) is not None and _ACCURACY in figures["last"]


def _until_equal(*pair: Result) -> list[tuple[float, bool]] | None:
    """Joules of each, and whether it was there when it was first looked at.

    Both come to the level, which is below the best of both. None where that is less than half of
    what the full model comes to: nothing has been learned then.
    """
    lines = [rivals.lines(result) for result in pair]
    best = [max(line[_ACCURACY] for line in one) for one in lines]
    level = min(best) - MARGIN
    if level < best[0] / 2:
        return None
    spent = [spent_until(one, level) for one in lines]
    first = [one[0][_ACCURACY] >= level for one in lines]
    return [(s, f) for s, f in zip(spent, first, strict=True) if s is not None]


def cut_seconds(folder: Path, *experiments: str) -> Json:
    """Seconds of a cut in training by the default, by experiment."""
    rows = []
    for experiment in experiments:
        ours = [r for r in results_of(folder, experiment) if run_kinds.is_ours(r)]
        found = [r for r in ours if "cut_seconds" in r["figures"]]  # old files do not know
        for method, group in _by(found, "method").items():
            seconds = [r["figures"]["cut_seconds"] for r in group]
            row = {"experiment": experiment, "method": method, "cuts": len(seconds)}
            facts = {"median": median(seconds), "longest": max(seconds)}
            rows.append({**row, **facts, "states": max(map(run_kinds.states, group))})
    return {"rows": rows, "experiments": list(dict.fromkeys(row["experiment"] for row in rows))}


def _by(results: Sequence[Result], setting: str) -> dict[Any, list[Result]]:
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(result["settings"].get(setting), []).append(result)
    return groups
