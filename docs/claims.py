"""What the page of results says of the claims of the method, from their files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from summaries import Json, over, results_of

from compressm.experiments import grouped


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
        row["accuracy"] = over(r["figures"]["chosen"]["test_accuracy_percent"] for r in group)
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


def _in_order(rows: Sequence[Json]) -> list[Json]:
    """Families in the order in which they settle best, the methods of each together."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["family"]] = max(best.get(row["family"], -1.0), row["correlation"]["mean"])
    return sorted(rows, key=lambda row: (-best[row["family"]], row["family"], str(row["method"])))
