"""What the page of results says of all experiments together, from their files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import rivals
from summaries import Json, Result, over, results_of

from compressm.experiments import grouped, spent_until

# What each kind of layer is cut by where nothing else is said and a loss is given.
DEFAULTS = ("gradient-data", "greedy-fit", "elimination-fit")
# A level that a run has to come to is so many points below what both runs come to.
MARGIN = 1.0


def lost(folder: Path, *experiments: str) -> Json:
    """Every size at which another way has the higher mean test accuracy than our default.

    Differences are taken seed by seed. A way that has not run all seeds of ours is left out.
    """
    losses, compared = [], 0
    for experiment in experiments:
        found = [r for r in results_of(folder, experiment) if _ends(r)]
        ours: dict[int, dict[int, float]] = {}
        others: dict[tuple[Any, ...], dict[int, float]] = {}
        for result in found:
            if _is_ours(result):
                ours.setdefault(_kept(result), {})[result["seed"]] = _test(result)
            elif _kept(result):
                axes = {k: v for k, v in result["axes"].items() if k != "kept"}
                way = (result["arm"], result["kind"], tuple(sorted(axes.items())))
                others.setdefault((*way, _kept(result)), {})[result["seed"]] = _test(result)
        for (arm, kind, axes, size), tests in others.items():
            mine = ours.get(size, {})
            if not mine or mine.keys() - tests.keys():
                continue
            compared += 1
            gap = over(tests[seed] - value for seed, value in mine.items())
            if gap["mean"] > 0:
                row = {"experiment": experiment, "states": size, "gap": gap}
                losses.append({**row, "arm": arm, "kind": kind, "axes": dict(axes)})
    return {"losses": sorted(losses, key=lambda row: -row["gap"]["mean"]), "compared": compared}


def quarter(folder: Path, *experiments: str) -> Json:
    """Test accuracy at a quarter of the states: never cut, cut by the default, from scratch.

    Differences are taken seed by seed.
    """
    rows = []
    for experiment in experiments:
        found = results_of(folder, experiment)
        full = {r["seed"]: r for r in found if r["arm"] == "full"}
        states = max(map(_states, full.values()), default=0)
        at = [r for r in found if 4 * _kept(r) == states]
        cut = {r["seed"]: r for r in at if _is_ours(r)}
        scratch = {r["seed"]: r for r in at if r["kind"] == "scratch"}
        seeds = sorted(full.keys() & cut.keys() & scratch.keys())
        if not seeds:
            continue
        row: Json = {"experiment": experiment, "full_states": states, "states": states // 4}
        for name, runs in (("full", full), ("cut", cut), ("scratch", scratch)):
            row[name] = over(_test(runs[seed]) for seed in seeds)
        row["gain"] = over(_test(cut[seed]) - _test(scratch[seed]) for seed in seeds)
        row["loss"] = over(_test(cut[seed]) - _test(full[seed]) for seed in seeds)
        rows.append(row)
    return {"rows": rows}


def energy(folder: Path, *experiments: str) -> Json:
    """Joules until equal validation accuracy, full model against the same one cut.

    The level is a point below the lower of the two best accuracies of a seed, of models that have
    their final size.
    """
    rows, methods = [], set()
    for experiment in experiments:
        found = [r for r in results_of(folder, experiment) if _has_lines(r)]
        full = {r["seed"]: r for r in found if r["arm"] == "full"}
        sizes: dict[int, list[tuple[Result, Result]]] = {}
        for result in found:
            if _is_ours(result) and result["seed"] in full:
                sizes.setdefault(_kept(result), []).append((full[result["seed"]], result))
        for size, pairs in sorted(sizes.items(), reverse=True):
            spent = [_until_equal(*pair) for pair in pairs]
            methods |= {r["energy"]["method"] for pair in pairs for r in pair}
            row: Json = {"experiment": experiment, "states": size}
            row["full"] = over(both[0] for both in spent)
            row["cut"] = over(both[1] for both in spent)
            row["ratio"] = over(both[1] / both[0] for both in spent)
            rows.append(row)
    return {"rows": rows, "methods": sorted(methods)}


def _has_lines(result: Result) -> bool:
    """Whether joules and accuracies are there; old files have not all of them."""
    figures = result["figures"]
    told = "curve_processor_seconds" in figures and "last_cut_step" in figures
    return told and rivals.joules(result) is not None and "val_accuracy_percent" in figures["last"]


def _until_equal(*pair: Result) -> list[float]:
    """Joules of each; both come to the level, which is below the best of both."""
    lines = [rivals.lines(result) for result in pair]
    level = min(max(line["val_accuracy_percent"] for line in one) for one in lines) - MARGIN
    return [spent for one in lines if (spent := spent_until(one, level)) is not None]


def cut_seconds(folder: Path, *experiments: str) -> Json:
    """Seconds of a cut in training by the default, by experiment."""
    rows = []
    for experiment in experiments:
        ours = [r for r in results_of(folder, experiment) if _is_ours(r)]
        found = [r for r in ours if "cut_seconds" in r["figures"]]  # old files do not know
        for method, group in _by(found, "method").items():
            seconds = [r["figures"]["cut_seconds"] for r in group]
            row = {"experiment": experiment, "method": method, "cuts": len(seconds)}
            facts = {"median": median(seconds), "longest": max(seconds)}
            rows.append({**row, **facts, "states": max(map(_states, group))})
    return {"rows": rows}


def settling(folder: Path, experiment: str) -> Json:
    """Means over layers and seeds, by family and method: the first measurement against later ones.

    "after" is the energy share at the end, "highest" at any later measurement, of the directions
    that a cut at the first would have removed.
    """
    rows = []
    found = results_of(folder, experiment)
    for (_, variant, method), group in grouped(found, ("variant", "method")).items():
        layers = [rows for r in group for rows in r["figures"]["layers"].values()]
        last = [layer[-1] for layer in layers]
        row: Json = {"family": variant, "method": method, "methods": group[0]["figures"]["methods"]}
        row["seeds"] = [r["seed"] for r in group]
        row["correlation"] = over(line["rank_correlation"] for line in last)
        row["before"] = over(layer[0]["doomed_at_first_percent"] for layer in layers)
        row["after"] = over(line["doomed_now_percent"] for line in last)
        row["highest"] = over(
            max(line["doomed_now_percent"] for line in layer[1:]) for layer in layers
        )
        row["states_first"] = over(layer[0]["states_for_energy"] for layer in layers)
        row["states_last"] = over(line["states_for_energy"] for line in last)
        rows.append(row)
    first = found[0]
    steps = first["configuration"]["trainer"]["steps"]
    return {"rows": _in_order(rows), "settings": first["settings"], "steps": steps}


def bounds(folder: Path, experiment: str) -> Json:
    """Of all cut layers of a family: how many, and how near their error came to the bound."""
    rows = []
    for (_, variant, method), group in grouped(
        results_of(folder, experiment), ("variant", "method")
    ).items():
        ratios = [cut["error_over_bound"] for r in group for cut in r["figures"]["cuts"]]
        row: Json = {"family": variant, "method": method, "cuts": len(ratios)}
        row |= {"median": median(ratios), "highest": max(ratios)}
        row["broken"] = sum(ratio > 1 for ratio in ratios)
        row["seeds"] = sorted({r["seed"] for r in group})
        rows.append(row)
    return {"rows": rows}


def ways(folder: Path, experiment: str) -> Json:
    """Milliseconds of a step by each way, and whole runs against ours."""
    rows, found = [], results_of(folder, experiment)
    for result in found:
        figures = result["figures"]
        model = result["configuration"]["model"]
        row = {"model": result["axes"]["variant"], "full_states": model["state_dim"]}
        row |= {"states": result["settings"]["kept"], "at": result["settings"]["at"]}
        row |= {"step": figures["processor_milliseconds"], "run": figures["run_over_cut"]}
        rows.append(row)
    load = max(result["machine"]["load_one_minute"] or 0.0 for result in found)
    facts = {"threads": found[0]["threads"], "load": load}
    return {"rows": sorted(rows, key=lambda row: row["full_states"]), **facts}


def _by(results: Sequence[Result], setting: str) -> dict[Any, list[Result]]:
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(result["settings"].get(setting), []).append(result)
    return groups


def _ends(result: Result) -> bool:
    """Whether it was trained to its end, with an accuracy there."""
    last = result["figures"].get("last", {})
    return "test_accuracy_percent" in result["figures"].get("chosen", last)


def _in_order(rows: Sequence[Json]) -> list[Json]:
    """Families in the order in which they settle best, the methods of each together."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["family"]] = max(best.get(row["family"], -1.0), row["correlation"]["mean"])
    return sorted(rows, key=lambda row: (-best[row["family"]], row["family"], str(row["method"])))


def _is_ours(result: Result) -> bool:
    settings = result["settings"]
    return (
        result["kind"] == "cut"
        and settings.get("method") in DEFAULTS
        and settings.get("at", 0.1) == 0.1
        and settings.get("cuts", 1) == 1
        and settings.get("select", "largest") == "largest"
        and settings.get("go_on", True)
        and settings.get("guard") is None
        and settings.get("fit_damping") is None
        and not settings.get("joint_fit")
    )


def _states(result: Result) -> int:
    configuration = result["configuration"]
    # Migrated ablation runs say in words what they were; their full model had 64 states.
    return 64 if isinstance(configuration, str) else int(configuration["model"]["state_dim"])


def _kept(result: Result) -> int:
    kept: Any = {**result["settings"], **result["axes"]}.get("kept")
    return kept if isinstance(kept, int) else 0


def _test(result: Result) -> float:
    """Of the model that validation chose; old files have the last one alone."""
    figures: Mapping[str, Any] = result["figures"]
    return float(figures.get("chosen", figures["last"])["test_accuracy_percent"])
