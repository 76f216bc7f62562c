"""What the tables of experiments show: means over seeds, from one result file a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from compressm.experiments import Results, grouped, spread
from compressm.families.lti import DEFAULT_METHOD, METHODS
from compressm.families.matrix_state import METHODS as SELECTIVE

Json = dict[str, Any]
Result = Mapping[str, Any]


def results_of(folder: Path, experiment: str) -> list[Result]:
    """All finished runs; a migrated one only where its arm was not run since."""
    found = list(Results(folder, experiment))
    anew = {(r["arm"], *_axes(r)) for r in found if "migrated" not in r}
    return [r for r in found if "migrated" not in r or (r["arm"], *_axes(r)) not in anew]


def _axes(result: Result) -> tuple[Any, ...]:
    return tuple(sorted((k, str(v)) for k, v in result["axes"].items() if k != "again"))


def over(values: Iterable[float]) -> Json:
    """Mean and deviation over seeds, as the tables take them."""
    return dataclasses.asdict(spread(values))


def _by_arm(results: Iterable[Result]) -> dict[tuple[Any, ...], list[Result]]:
    """Groups by (arm or method, states), in the order of the tables."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for (arm, method, kept), group in grouped(results, ("method", "kept")).items():
        name = method if arm == "cut" else arm
        groups[name, full_size(group) if arm == "full" else kept] = group
    order = ["full", "joint", *SELECTIVE, *METHODS, "scratch"]
    return dict(sorted(groups.items(), key=lambda item: (order.index(item[0][0]), -item[0][1])))


def full_size(group: Sequence[Result]) -> int:
    """States of the model that is never cut."""
    return int(group[0]["configuration"]["model"]["state_dim"])


def _pairs(group: Sequence[Result], full: Mapping[int, Result]) -> list[tuple[Json, Json]]:
    """(figures, figures of the full model) seed by seed: they share their first steps."""
    return [(r["figures"], full[r["seed"]]["figures"]) for r in group if r["seed"] in full]


def compared(folder: Path, experiment: str) -> Json:
    """Arms against the model that is never cut, at the last step and as validation chose."""
    found = [
        r
        for r in results_of(folder, experiment)
        if r["arm"] != "damping" and r["settings"].get("go_on") is not False
    ]
    groups = _by_arm(found)
    full = {r["seed"]: r for (arm, _), group in groups.items() if arm == "full" for r in group}
    table = []
    for (arm, kept), group in groups.items():
        entry: Json = {"arm": arm, "kept": kept, "seeds": [r["seed"] for r in group]}
        both = _pairs(group, full)
        for which in ("chosen", "last"):
            for figure in group[0]["figures"][which]:
                if figure == "step":
                    continue
                key = f"{which}_{figure}"
                entry[key] = over(r["figures"][which][figure] for r in group)
                if arm != "full":
                    gaps = (a[which][figure] - b[which][figure] for a, b in both)
                    entry[f"{key}_over_full"] = over(gaps)
        if "loss_rise_nats" in group[0]["figures"]:
            entry["rise"] = over(r["figures"]["loss_rise_nats"] for r in group)
        table.append(entry)
    return {"steps": found[0]["figures"]["last"]["step"], "table": table}


def damping(folder: Path, *experiments: str) -> Json:
    """Each damping of the fit against the full model, at the last step."""
    table = []
    for experiment in experiments:
        found = results_of(folder, experiment)
        full = {r["seed"]: r for r in found if r["arm"] == "full"}
        arms = grouped((r for r in found if r["arm"] == "damping"), ("fit_damping",))
        for (_, value), group in sorted(arms.items()):
            both = _pairs(group, full)
            entry: Json = {"experiment": experiment, "damping": value}
            entry["seeds"] = [r["seed"] for r in group]
            entry["rise"] = over(r["figures"]["loss_rise_nats"] for r in group)
            for part in ("val", "test"):
                key = f"{part}_loss_nats"
                entry[f"{part}_over_full"] = over(a["last"][key] - b["last"][key] for a, b in both)
            key = "test_accuracy_percent"
            entry["test_accuracy"] = over(r["figures"]["chosen"][key] for r in group)
            entry["settings"] = group[0]["settings"]
            table.append(entry)
    return {"table": table}


def cuts(folder: Path, experiment: str) -> Json:
    """Rise of the loss right after a cut, by method, size and moment; of cuts that end there.

    More batches than others look at, and a joint fit, are told apart by `way`.
    """
    order = [*SELECTIVE, *METHODS]
    table = []
    found = [
        {**r, "settings": {"joint_fit": 0, **r["settings"]}}  # older results do not say that
        for r in results_of(folder, experiment)
        if r["settings"].get("go_on") is False
    ]
    arms = grouped(found, ("method", "kept", "at", "batches", "joint_fit"))
    fewest = min((r["settings"].get("batches", 0) for r in found), default=0)
    for key, group in sorted(arms.items(), key=lambda a: order.index(a[0][1])):
        _, method, kept, at, batches, joint_fit = key
        more = f"{batches} batches" if batches is not None and batches > fewest else None
        figures = [r["figures"] for r in group]
        table.append(
            {
                "method": method,
                "way": ", ".join(filter(None, [more, "joint fit" if joint_fit else None])),
                "kept": kept,
                "at": at,
                "seeds": [r["seed"] for r in group],
                "before": over(f["before_cut"]["val_loss_nats"] for f in figures),
                "rise": over(f["loss_rise_nats"] for f in figures),
            }
        )
    known = {key for r in found for key in r["figures"]["before_cut"]}
    # Old results of language models have the loss alone.
    classes = "val_accuracy_percent" in known and "val_bits_per_token" not in known
    return {"unit": "nats" if classes else "nats per byte", "table": table}


def ablation(folder: Path, experiment: str) -> Json:
    """Accuracies by method and size; arms that not all seeds have run are left out.

    Runs that end with their cut are of other tables (`cuts`).

    Args:
        folder: of all results.
        experiment: name.
    """
    results = [r for r in results_of(folder, experiment) if r["settings"].get("go_on", True)]
    groups = _by_arm(results)
    most = max(len({r["seed"] for r in group}) for group in groups.values())
    whole = {
        key: list({r["seed"]: r for r in group}.values())
        for key, group in groups.items()
        if len({r["seed"] for r in group}) == most
    }
    table = []
    for (arm, kept), group in whole.items():
        entry: Json = {"arm": arm, "kept": kept, "seeds": [r["seed"] for r in group]}
        for name, find in _ACCURACIES.items():
            values = [find(r["figures"]) for r in group]
            if all(value is not None for value in values):
                entry[name] = over(values)
        if arm == "full" and (before := _before_the_cut(results)):
            entry["after_cut"] = over(before)
        published = {r["seed"]: r for r in whole.get(("published", kept), ())}
        if published and arm not in ("published", "full"):
            test = _ACCURACIES["test"]
            entry["test_over_published"] = over(
                test(r["figures"]) - test(published[r["seed"]]["figures"]) for r in group
            )
        table.append(entry)
    return {"table": table, "choice": {given: _choice(table, given) for given in DEFAULT_METHOD}}


def _before_the_cut(results: Iterable[Result]) -> list[float]:
    """Validation accuracy of the trunk of each seed, which all its cuts start from."""
    found = {r["seed"]: r["figures"].get("before_cut") for r in results if r["kind"] == "cut"}
    return [figures["val_accuracy_percent"] for figures in found.values() if figures]


def _choice(table: Sequence[Json], given: str) -> dict[str, float]:
    """The rule for defaults: mean validation accuracy over all sizes of what can run."""
    sizes = {row["kept"] for row in table if row["arm"] in METHODS}
    means = {}
    for name, method in METHODS.items():
        able = (given != "nothing" or not method.needs_data) and (
            given == "loss" or method.observability != "gradient"
        )
        mine = [row["val"]["mean"] for row in table if row["arm"] == name]
        if able and mine and len(mine) == len(sizes):
            means[name] = fmean(mine)
    return dict(sorted(means.items(), key=lambda item: -item[1]))


_ACCURACIES: dict[str, Callable[[Json], Any]] = {
    "after_cut": lambda f: f.get("after_cut", {}).get("val_accuracy_percent"),
    "val": lambda f: f["last"]["val_accuracy_percent"],
    "test": lambda f: f["last"]["test_accuracy_percent"],
}


def transport(folder: Path, experiment: str) -> Json:
    """Means over seeds, and on how many of them the moments that followed were no worse."""
    table = []
    found = results_of(folder, experiment)
    for (_, optimizer, method), group in grouped(found, ("optimizer", "method")).items():
        figures = [r["figures"] for r in group]
        keys = ("project_loss_nats", "reset_loss_nats")
        whole = [f for f in figures if all(f[key] is not None for key in keys)]
        gaps = [f[keys[0]] - f[keys[1]] for f in whole]
        early = [f["project_early_loss_nats"] - f["reset_early_loss_nats"] for f in whole]
        table.append(
            {
                "optimizer": optimizer,
                "method": method,
                "seeds": len(group),
                "diverged": len(group) - len(whole),
                "project": fmean(f[keys[0]] for f in whole),
                "reset": fmean(f[keys[1]] for f in whole),
                "gap": fmean(gaps),
                "gap_std": stdev(gaps) if len(gaps) > 1 else 0.0,
                "gap_early": fmean(early),
                "no_worse": sum(gap <= 0 for gap in gaps),
            }
        )
    return {"settings": found[0]["settings"], "table": table}


def whole_runs(folder: Path, *experiments: str) -> Json:
    """Wall-clock of whole runs by precision."""
    rows = []
    for experiment in experiments:
        for result in results_of(folder, experiment):
            trainer = result["configuration"]["trainer"]
            facts = {"arm": result["arm"], **{k: trainer[k] for k in ("precision", "steps")}}
            rows.append({**facts, **result["figures"]})
    return {"time": rows}


def pace(folder: Path, experiment: str) -> Json:
    """Step times of two sizes in turn, one run for each smaller size, the largest first."""
    found = results_of(folder, experiment)
    found.sort(key=lambda r: -r["settings"]["kept"])
    runs = [{"full": full_size([r]), **r["settings"], **r["figures"]} for r in found]
    return {"threads": found[0]["threads"], "runs": runs}


def _facts(result: Result) -> Json:
    """Of the machine that made it, as the captions of tables of times take them."""
    machine = {key: result["machine"][key] for key in ("cpu", "load_one_minute")}
    return {**machine, "threads": result["threads"], "torch": result["versions"]["torch"]}


def operators(folder: Path, experiment: str) -> Json:
    """One run in which all codes took turns: its figures, settings and machine."""
    (result,) = [r for r in results_of(folder, experiment) if r["arm"] == "operators"]
    return {"machine": _facts(result), **result["settings"], **result["figures"]}


def profiles(folder: Path, experiment: str) -> Json:
    """Profiles of a step, those with the most states first."""
    found = [r for r in results_of(folder, experiment) if r["arm"] == "profile"]
    found.sort(key=lambda r: -r["settings"]["states"])
    rows = [{**r["settings"], **r["figures"]} for r in found]
    return {"machine": _facts(found[0]), "profiles": rows}


def cutting(folder: Path, experiment: str) -> Json:
    """Cuts by every method, and the single runs beside them."""
    by_arm: dict[str, list[Result]] = {}
    for result in results_of(folder, experiment):
        by_arm.setdefault(result["arm"], []).append(result)
    cuts = sorted(by_arm.pop("cut"), key=lambda r: list(METHODS).index(r["settings"]["method"]))
    default = set(DEFAULT_METHOD.values())
    alone = {arm: {**r["settings"], **r["figures"]} for arm, (r,) in by_arm.items()}
    return {
        "machine": _facts(cuts[0]),
        "model": cuts[0]["settings"],
        "methods": [
            {**r["settings"], **r["figures"], "default": r["settings"]["method"] in default}
            for r in cuts
        ],
        **alone,
    }
