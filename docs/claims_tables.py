"""Tables of the claims of the method (`claims.py`)."""

from __future__ import annotations

from typing import Any

import listings
from cells import plain, seeds

Json = dict[str, Any]


def settling(results: Json) -> str:
    """One row for each family and method: ranks, and energy that a cut would have removed."""
    rows = [
        [
            row["family"],
            f"`{row['methods'][0]}`",
            plain(row["accuracy"], 1),
            plain(row["correlation"], 2),
            f"{row['states_first']['mean']:.1f} → {row['states_last']['mean']:.1f}",
            *(plain(row[name], 1) for name in ("before", "after", "highest")),
        ]
        for row in results["rows"]
    ]
    settings = results["settings"]
    at = f"{100 * settings['first']:.0f} %"
    columns = ["layer", "spectrum of", "accuracy, %", f"correlation of ranks, {at} and 100 %"]
    columns += [f"states for {100 * (1 - settings['tolerance']):.0f} % of the energy"]
    columns += [f"doomed at {at}, %", "at the end, %", "highest on the way, %"]
    return (
        f"{listings.table(columns, rows)}\n\nModels that are never cut, {results['steps']:,} "
        "steps; accuracy on the test part at the end. Correlation: Spearman's, weighted by "
        f"energy, of directions followed through {settings['looks']} measurements. Doomed: share "
        f"of the energy in directions that a cut at {at} would remove. Mean ± standard "
        f"deviation over the layers of {seeds(results['rows'])}. {results['source']}"
    )


def bounds(results: Json) -> str:
    """One row for each family and method: cuts, and error over bound."""
    rows = [
        [
            row["family"],
            f"`{row['method']}`",
            row["cuts"],
            row["broken"],
            f"{row['median']:.3f}",
            f"{row['highest']:.3f}",
        ]
        for row in results["rows"]
    ]
    columns = ["layer", "method", "cut layers", "above the bound", "median of error / bound"]
    return (
        f"{listings.table([*columns, 'highest'], rows)}\n\nH-infinity error of every layer as it "
        "is stored, from a frequency grid that follows its poles, over the bound in the event; "
        f"{seeds(results['rows'])}, cut at 10 % and after the whole training. "
        f"{results['source']}"
    )


def ways(results: Json) -> str:
    """One row for each model and way: milliseconds of a step, and a whole run against ours."""
    rows = []
    for row in results["rows"]:
        for way, milliseconds in row["step"].items():
            over = row["run"].get(way)
            rows.append(
                [
                    row["model"],
                    _way(way, row),
                    f"{milliseconds:.0f}",
                    "–" if over is None else f"{over:.1f} ×",
                ]
            )
    columns = ["model", "way", "step, ms of processor time", "run over ours"]
    return (
        f"{listings.table(columns, rows)}\n\nMedians of turns, {results['threads']} "
        f"thread, load of the machine {results['load']:.0f}. Ours is full for "
        f"{100 * results['rows'][0]['at']:.0f} % of the steps and small for the rest; "
        "its cut, and the teacher's own training, are not counted. "
        f"{results['source']}"
    )


def _way(way: str, row: Json) -> str:
    if way.startswith("hankel_norm_every_"):
        every = int(way.rpartition("_")[2])
        often = "every step" if every == 1 else f"every {every} steps"
        return f"Hankel nuclear norm {often}, {row['full_states']} states"
    states = row["full_states"] if way == "full" else row["states"]
    names = {"full": "never cut", "small": "small", "distillation": "small, with a teacher"}
    return f"{names[way]}, {states} states"
