"""Tables of the ablation: every method at every size (`summaries.ablation`)."""

from __future__ import annotations

from typing import Any

import listings
from cells import plain

Json = dict[str, Any]


def ablation(results: Json, key: str, *arms: str) -> str:
    """One row for each arm, one column for each size: mean ± standard deviation over seeds.

    Args:
        results: of `summaries.ablation`.
        key: "after_cut", "val", "test" or "test_over_published".
        arms: rows to show; without them all.
    """
    cells = {(row["arm"], row["kept"]): row[key] for row in results["table"] if key in row}
    full = next((row for row in results["table"] if row["arm"] == "full"), None)
    sizes = sorted({kept for arm, kept in cells if arm != "full"}, reverse=True)
    order = {name: place for place, name in enumerate(("full", "scratch", *listings.methods()))}
    present = sorted({arm for arm, _ in cells}, key=lambda arm: (order.get(arm, len(order)), arm))
    shown = [arm for arm in present if not arms or arm in arms]
    best = {
        size: max((cells[arm, size]["mean"] for arm in shown if (arm, size) in cells), default=None)
        for size in sizes
    }
    rows = []
    for arm in shown:
        row = [_arm_name(arm, full)]
        for size in sizes:
            cell = cells.get((arm, full["kept"] if arm == "full" and full else size))
            text = "–" if cell is None else plain(cell, 1)
            top = cell is not None and arm != "full" and cell["mean"] == best[size]
            row.append(f"**{text}**" if top else text)
        rows.append(row)
    counts = sorted({cell["n"] for cell in cells.values()})
    seeds = "–".join(str(n) for n in sorted({counts[0], counts[-1]}))
    unit = "Points" if "_over_" in key else "Accuracy in percent"
    return (
        listings.table(["method", *(f"{size} states" for size in sizes)], rows)
        + f"\n\n{unit}, mean ± standard deviation over {seeds} "
        + f"seed{'s' if counts[-1] > 1 else ''}; bold: the highest mean of its column. "
        + results["source"]
    )


def _arm_name(arm: str, full: Json | None) -> str:
    if arm == "full" and full:
        return f"never cut ({full['kept']} states)"
    return "trained small from scratch" if arm == "scratch" else f"`{arm}`"
