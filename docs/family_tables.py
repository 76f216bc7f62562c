"""The tables of every family: right after a cut to half of the states, and whole runs in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import listings
import summaries
from cells import plain, signed

from compressm.experiments import grouped, load_definition

Json = dict[str, Any]
Result = Mapping[str, Any]

DEFINITIONS = Path(__file__).parents[1] / "experiments"
DEFAULT = "auto"
# column: the methods that stand in it, of which a family has one
_COLUMNS = {
    "default": (DEFAULT,),
    "balanced truncation": ("real-pairs", "balanced"),
    "as published": ("published", "pivoted-qr", "hankel"),
    "strong RRQR": ("strong-rrqr",),
    "magnitude": ("magnitude",),
    "random": ("random",),
}
# key: (figure of a result, digits, whether it has a sign, what it is)
_FIGURES = {
    "error": (
        "output_error_percent",
        2,
        plain,
        "Relative error of the logits on validation data in percent",
    ),
    "rise": ("loss_rise_nats", 4, signed, "Rise of the validation loss in nats"),
}
_TIMES = (
    "full_step_milliseconds",
    "kept_step_milliseconds",
    "speedup",
    "cut_seconds",
    "cut_share_percent",
    "full_run_seconds",
    "cut_run_seconds",
    "run_speedup",
)


def summary(folder: Path, experiment: str) -> Json:
    """Figures by layer, column and seed of cuts that end there, and means of the times by layer."""
    found = summaries.results_of(folder, experiment)
    order = list(load_definition(DEFINITIONS / f"{experiment}.yaml").variants)
    cuts: dict[str, dict[str, dict[int, Json]]] = {name: {} for name in order}
    before: dict[str, list[float]] = {}
    times = []
    for result in found:
        if result["kind"] == "full":
            accuracy = result["figures"]["chosen"]["test_accuracy_percent"]
            before.setdefault(result["axes"]["variant"], []).append(accuracy)
        if result["kind"] == "cut":
            column = cuts[result["axes"]["variant"]].setdefault(_column(result), {})
            column[result["seed"]] = result["figures"]
    paces = grouped((r for r in found if r["kind"] == "steps"), ("variant",))
    for (_, name), group in sorted(paces.items(), key=lambda item: order.index(item[0][1])):
        figures = [r["figures"] for r in group]
        means = {key: summaries.over(f[key] for f in figures) for key in _TIMES}
        times.append({"layer": name, "seeds": [r["seed"] for r in group], **means})
    return {
        "rows": [
            {"layer": name, "cuts": found, "before": before.get(name)}
            for name, found in cuts.items()
            if found
        ],
        "times": times,
        **_sizes(found),
    }


def _column(result: Result) -> str:
    by_chance = result["settings"]["select"] == "random"
    method = "random" if by_chance else result["settings"]["method"]
    return next(column for column, methods in _COLUMNS.items() if method in methods)


def _sizes(found: Sequence[Result]) -> Json:
    """Of the models, of each kind of run, and where times were taken."""
    sizes: Json = {"full": found[0]["configuration"]["model"]["state_dim"]}
    sizes["steps"] = found[0]["configuration"]["trainer"]["steps"]
    for result in found:
        sizes[f"{result['kind']}_settings"] = result["settings"]
        if result["kind"] == "steps":
            sizes["threads"] = result["threads"]
    return sizes


def families(results: Json, key: str) -> str:
    """One row for each layer.

    Args:
        results: of `summary`.
        key: "error" or "rise" right after a cut, or "time".
    """
    if not results["times" if key == "time" else "rows"]:
        return "*Not measured in these runs.*"
    return _time(results) if key == "time" else _cuts(results, key)


def _cuts(results: Json, key: str) -> str:
    figure, digits, write, caption = _FIGURES[key]
    rows = []
    for row in results["rows"]:
        values = {
            column: {seed: figures[figure] for seed, figures in by_seed.items()}
            for column, by_seed in row["cuts"].items()
        }
        cells = {column: summaries.over(found.values()) for column, found in values.items()}
        best = min(cell["mean"] for cell in cells.values())
        shown = []
        for column in _COLUMNS:
            cell = cells.get(column)
            text = "–" if cell is None else write(cell, digits)
            shown.append(f"**{text}**" if cell is not None and cell["mean"] == best else text)
        before = row["before"] and summaries.over(row["before"])
        rows.append([row["layer"], plain(before, 1), *shown, _no_worse(values)])
    seeds = _seeds(len(found) for row in results["rows"] for found in row["cuts"].values())
    return (
        listings.table(["layer", "accuracy, %", *_COLUMNS, "default no worse than any"], rows)
        + "\n\nAccuracy: of the model that is never cut, on the test part. "
        + f"{caption}, right after a cut of the trained model ({results['steps']:,} steps) "
        + f"from {results['full']} to {results['cut_settings']['kept']} states in every layer, "
        + f"mean ± standard deviation over {seeds}; bold: the lowest mean of its row; the last "
        + f"column counts seeds. –: the family has no such method. {results['source']}"
    )


def _no_worse(values: Mapping[str, Mapping[int, float]]) -> str:
    """On how many seeds no other column is lower than the default."""
    default = values.get("default", {})
    others = [found for column, found in values.items() if column != "default"]
    good = sum(
        all(value <= found[seed] for found in others if seed in found)
        for seed, value in default.items()
    )
    return f"{good} of {len(default)}"


def _time(results: Json) -> str:
    settings = results["steps_settings"]
    rows = [
        [
            row["layer"],
            f"{row['full_step_milliseconds']['mean']:.1f}",
            f"{row['kept_step_milliseconds']['mean']:.1f}",
            f"{row['speedup']['mean']:.2f} ×",
            f"{row['cut_seconds']['mean']:.2f}",
            f"{row['cut_share_percent']['mean']:.1f}",
            f"{row['full_run_seconds']['mean']:.1f}",
            f"{row['cut_run_seconds']['mean']:.1f}",
            plain(row["run_speedup"], 2) + " ×",
        ]
        for row in results["times"]
    ]
    columns = [
        "layer",
        f"step with {results['full']} states, ms",
        f"with {settings['kept']}, ms",
        "step, against full",
        "cut, s",
        "of the run, %",
        "run never cut, s",
        "cut run, s",
        "run, against never cut",
    ]
    seeds = _seeds(len(row["seeds"]) for row in results["times"])
    threads = "1 thread" if results["threads"] == 1 else f"{results['threads']} threads"
    return (
        listings.table(columns, rows)
        + f"\n\nSteps: forward, backward and optimizer, median of {settings['rounds']} rounds of "
        + f"{settings['each']} in turns in one process, {threads}; mean over {seeds}. Runs: "
        + f"{results['steps']:,} steps at these speeds, measured and cut by the default at "
        + f"{100 * settings['at']:.0f} %; validation and tests are not counted. "
        + results["source"]
    )


def _seeds(counts: Iterable[int]) -> str:
    most = max(counts)
    return "1 seed" if most == 1 else f"{most} seeds"
