"""Tables of the page on Mamba, from summaries of experiments (`summaries.py`)."""

from __future__ import annotations

from typing import Any

import listings
from cells import plain, seeds, signed

Json = dict[str, Any]

_ARMS = {
    "full": "never cut",
    "joint": "cut, `elimination-fit`, joint fit",
    "scratch": "trained small from scratch",
}
_PRECISIONS = {"32": "float32", "bf16": "bfloat16 products"}


def language(results: Json) -> str:
    """One row for each arm: loss right after the cut and at the end, against the full model.

    Args:
        results: of `summaries.compared`.
    """
    rows = []
    for row in results["table"]:
        over = [
            signed(row[key], 4) if key in row else "–"
            for key in ("rise", "last_val_loss_nats_over_full", "chosen_test_loss_nats_over_full")
        ]
        rows.append(
            [
                _ARMS.get(row["arm"], f"cut, `{row['arm']}`"),
                row["kept"],
                over[0],
                plain(row["last_val_loss_nats"], 4),
                over[1],
                plain(row["chosen_test_loss_nats"], 4),
                over[2],
                f"{row['chosen_test_bits_per_token']['mean']:.3f}",
            ]
        )
    columns = [
        "model",
        "states",
        "rise at the cut",
        "validation, last step",
        "over full",
        "test",
        "over full",
        "test, bits per byte",
    ]
    return (
        listings.table(columns, rows)
        + f"\n\nNats per byte, mean ± standard deviation over {seeds(results['table'])}, "
        + f"{results['steps']:,} steps; differences are taken seed by seed. Test: the model that "
        + f"validation chose. {results['source']}"
    )


def classifier(results: Json) -> str:
    """One row for each arm: test accuracy at the end, against the full model.

    Args:
        results: of `summaries.compared`, for a classifier's recipe.
    """
    rows = []
    for row in results["table"]:
        key = "chosen_test_accuracy_percent"
        rise = signed(row["rise"], 4) if "rise" in row else "–"
        name = _ARMS.get(row["arm"], f"cut, `{row['arm']}`")
        against = "–" if row["arm"] == "full" else signed(row[f"{key}_over_full"], 1)
        rows.append([name, row["kept"], rise, plain(row[key], 1), against])
    columns = ["model", "states", "rise of the loss at the cut", "test accuracy, %", "over full"]
    return (
        listings.table(columns, rows)
        + f"\n\nMean ± standard deviation over {seeds(results['table'])}, {results['steps']:,} "
        + "steps; differences are taken seed by seed. Test: the model that validation chose. "
        + results["source"]
    )


def damping(results: Json) -> str:
    """One row for each recipe and damping of the fit: the end of training, against the full model.

    Args:
        results: of `summaries.damping`.
    """
    rows = [
        [
            f"`{row['experiment']}`",
            f"{row['damping']:g}",
            signed(row["rise"], 4),
            signed(row["val_over_full"], 4),
            signed(row["test_over_full"], 4),
            plain(row["test_accuracy"], 1),
        ]
        for row in results["table"]
    ]
    columns = [
        "experiment",
        "damping",
        "rise at the cut",
        "validation, over full",
        "test, over full",
        "test accuracy, %",
    ]
    settings = results["table"][0]["settings"]
    return (
        listings.table(columns, rows)
        + f"\n\nNats at the last step, mean ± standard deviation over {seeds(results['table'])}; "
        + f"`{settings['method']}`, {settings['kept']} states. {results['source']}"
    )


def whole_run(results: Json) -> str:
    """Wall-clock of whole runs with and without the cut.

    Args:
        results: of `summaries.whole_runs`.
    """
    times = {(row["arm"], row["precision"]): row for row in results["time"]}
    rows = []
    for precision in dict.fromkeys(key[1] for key in times):
        full = times["full", precision]
        for arm in ("full", "cut", "scratch"):
            row = times[arm, precision]
            before, after = (f"{row[f'{end}_step_milliseconds']:.1f}" for end in ("first", "last"))
            speed = full["last_step_milliseconds"] / row["last_step_milliseconds"]
            rows.append(
                [
                    "cut at 10 %" if arm == "cut" else _ARMS[arm],
                    _PRECISIONS.get(precision, precision),
                    f"{before} → {after}" if arm == "cut" else after,
                    f"{speed:.1f} ×",
                    f"{row['wall_seconds']:.1f}",
                    f"{row['train_seconds']:.1f}",
                    f"{row['cut_seconds']:.2f}",
                    f"{full['wall_seconds'] / row['wall_seconds']:.2f} ×",
                    f"{row['last_val_loss_nats']:.4f}",
                ]
            )
    columns = [
        "run",
        "precision",
        "step, ms",
        "step after, against full",
        "whole run, s",
        "training steps, s",
        "measuring and cutting, s",
        "whole run, against full",
        "validation, last step",
    ]
    return (
        listings.table(columns, rows)
        + f"\n\nRuns of {full['steps']:,} steps, in the proportions of the recipe, by `compressm "
        + "train`: loading, validation, cut, checkpoints and test are in the wall-clock; speeds "
        + "are against the full model in the same precision. "
        + f"One seed, {full['threads']} threads, machine otherwise idle. {results['source']}"
    )


def pace(results: Json) -> str:
    """Milliseconds of a training step at full and at cut size, measured in turns.

    Args:
        results: of `summaries.pace`.
    """
    rows = []
    for run in results["runs"]:
        full = run["full_best_step_milliseconds"]
        for name in ("full", "kept"):
            best, median = (run[f"{name}_{key}step_milliseconds"] for key in ("best_", ""))
            row = [run[name], f"{best:.1f}", f"{median:.1f}", f"{full / best:.1f} ×"]
            if run.get("plain"):
                row.append(f"{run[f'plain_{name}_step_milliseconds']:.1f}")
                row.append(f"{run[f'{name}_over_plain_speedup']:.1f} ×")
            rows.append(row)
    columns = ["states", "best, ms", "median, ms", "speed"]
    if any(run.get("plain") for run in results["runs"]):
        columns += ["transformers' own code, median, ms", "ours, against it"]
    first = results["runs"][0]
    return (
        listings.table(columns, rows)
        + f"\n\nForward, backward and optimizer, {first['rounds']} rounds of {first['each']} steps "
        + f"in turns, {results['threads']} threads. {results['source']}"
    )


def cuts(results: Json, percent: str) -> str:
    """Rise of the loss right after a cut: one row for each method, one column for each size.

    Args:
        results: of `summaries.cuts`.
        percent: of the training before the cut.
    """
    found = [row for row in results["table"] if round(100 * row["at"]) == int(percent)]
    if not found:
        return "*Not measured in these runs.*"
    cells = {(row["method"], row.get("way"), row["kept"]): row["rise"] for row in found}
    sizes = sorted({row["kept"] for row in found}, reverse=True)
    rows = []
    for method, way in dict.fromkeys((row["method"], row.get("way")) for row in found):
        rises = [cells.get((method, way, size)) for size in sizes]
        name = f"`{method}`, {way}" if way else f"`{method}`"
        rows.append([name, *("–" if rise is None else signed(rise, 4) for rise in rises)])
    return (
        listings.table(["method", *(f"{size} states" for size in sizes)], rows)
        + f"\n\nRise of the validation loss in {results['unit']}, "
        + f"from {plain(found[0]['before'], 4)}, mean ± standard deviation over "
        + f"{seeds(found)}; no step was taken after the cut. "
        + results["source"]
    )
