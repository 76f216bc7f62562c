"""Recall against state size: what the files say, and tables of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import listings
from cells import plain, seeds
from summaries import Json, full_size, over, results_of

from compressm.experiments import grouped


def summary(folder: Path, experiment: str) -> Json:
    """Accuracy by size: from scratch, cut early and late, and what the guard let pass."""
    key = "accuracy_percent"
    table, guards = [], []
    found = results_of(folder, experiment)
    for (arm, method, at, kept), group in grouped(found, ("method", "at", "kept")).items():
        figures = [r["figures"] for r in group]
        entry: Json = {"arm": arm, "method": method, "at": at, "seeds": [r["seed"] for r in group]}
        entry["kept"] = full_size(group) if arm == "full" else kept
        for moment in ("before_cut", "after_cut"):
            if moment in figures[0]:
                entry[moment] = over(f[moment][f"val_{key}"] for f in figures)
        if "chosen" in figures[0]:
            entry["test"] = over(f["chosen"][f"test_{key}"] for f in figures)
        guarded = group[0]["settings"].get("guard") is not None
        if guarded:
            entry["search"] = group[0]["settings"].get("search", False)
            entry["left"] = [f.get("largest_states") or max(f["states"].values()) for f in figures]
            entry["max_drop"] = group[0]["settings"]["max_drop"]
        (guards if guarded else table).append(entry)
    return {"table": table, "guards": guards}


def recall(results: Json) -> str:
    """Recall accuracy by state dimension: from scratch, and cut early or late.

    Args:
        results: of `summary`.
    """
    table = results["table"]
    full = next(row for row in table if row["arm"] == "full")
    cells = {(row["arm"], row["at"], row["kept"]): row for row in table}
    sizes = sorted({row["kept"] for row in table if row["arm"] != "full"}, reverse=True)

    def cell(key: tuple[Any, ...], name: str) -> str:
        row = cells.get(key, {})
        return plain(row[name], 1) if name in row else "–"

    methods = {row["arm"]: row["method"] for row in table}
    rows = [[full["kept"], *["–"] * 3, plain(full["test"], 1), "–"]]
    for size in sizes:
        rows.append(
            [
                size,
                cell(("scratch", None, size), "test"),
                cell(("cut", 0.1, size), "test"),
                cell(("cut", 0.8, size), "after_cut"),
                cell(("cut", 0.8, size), "test"),
                cell(("at-once", 0.8, size), "after_cut"),
            ]
        )
    columns = [
        "states",
        "from scratch",
        "cut at 10 %, end",
        "cut at 80 %, at once",
        "cut at 80 %, end",
        f"at 80 %, at once, `{methods['at-once']}`",
    ]
    return (
        listings.table(columns, rows)
        + "\n\nAccuracy at the queries in percent, mean ± standard deviation over "
        + f"{seeds(table)}; cut by `{methods['cut']}` where nothing else is said. At once: "
        + "validation, before any further step; the others: test, of the model that validation "
        + f"chose. {results['source']}"
    )


def guards(results: Json) -> str:
    """Where a guard on recall accuracy stopped.

    Args:
        results: of `summary`.
    """
    found = results["guards"]
    rows = [
        [
            f"{100 * guard['at']:.0f} %",
            f"{guard['kept']}, with `search`" if guard["search"] else guard["kept"],
            ", ".join(map(str, guard["left"])),
            plain(guard["before_cut"], 1),
            plain(guard["after_cut"], 1),
        ]
        for guard in sorted(found, key=lambda g: (g["at"], -g["kept"], g["search"]))
    ]
    columns = ["cut at", "asked for", "states left, by seed", "accuracy before, %", "after, %"]
    return (
        listings.table(columns, rows)
        + f"\n\nThe guard allows {found[0]['max_drop']:.0f} point of validation accuracy. "
        + results["source"]
    )
