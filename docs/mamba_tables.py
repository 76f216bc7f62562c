"""Tables of the page on Mamba, each from one file in benchmarks/results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import listings

Json = dict[str, Any]

_ARMS = {
    "full": "never cut",
    "scratch": "trained small from scratch",
}
_PRECISIONS = {"32": "float32", "bf16": "bfloat16 products"}


def _signed(cell: Mapping[str, float], digits: int = 4) -> str:
    """Mean ± standard deviation of differences."""
    spread = f" ± {cell['std']:.{digits}f}" if cell["n"] > 1 else ""
    return f"{cell['mean']:+.{digits}f}{spread}"


def _plain(cell: Mapping[str, float], digits: int = 4) -> str:
    return _signed(cell, digits).removeprefix("+")


def _seeds(rows: Sequence[Json]) -> str:
    counts = sorted({len(row["seeds"]) for row in rows})
    if counts == [1]:
        return "1 seed"
    return "–".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) + " seeds"


def language(results: Json) -> str:
    """One row for each arm: loss right after the cut and at the end, against the full model.

    Args:
        results: what `benchmarks/mamba_lm.py summary` writes.
    """
    rows = []
    for row in results["table"]:
        over = [
            _signed(row[key]) if key in row else "–"
            for key in ("at_cut", "last_val_over_full", "best_test_over_full")
        ]
        rows.append(
            [
                _ARMS.get(row["arm"], f"cut, `{row['arm']}`"),
                row["kept"],
                over[0],
                _plain(row["last_val"]),
                over[1],
                _plain(row["best_test"]),
                over[2],
                f"{row['best_test_bits']['mean']:.3f}",
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
        + f"\n\nNats per byte, mean ± standard deviation over {_seeds(results['table'])}, "
        + f"{results['steps']:,} steps; differences are taken seed by seed. Test: the model that "
        + f"validation chose. Source: `benchmarks/results/{_file(results['recipe'])}.json`."
    )


def classifier(results: Json) -> str:
    """One row for each arm: test accuracy at the end, against the full model.

    Args:
        results: what `benchmarks/mamba_lm.py summary` writes for a classifier's recipe.
    """
    rows = []
    for row in results["table"]:
        accuracy, over = (
            {**row[key], **{part: 100 * row[key][part] for part in ("mean", "std")}}
            for key in ("best_test_accuracy", "best_test_accuracy_over_full")
        )
        rise = _signed(row["at_cut"]) if "at_cut" in row else "–"
        name = _ARMS.get(row["arm"], f"cut, `{row['arm']}`")
        against = "–" if row["arm"] == "full" else _signed(over, 1)
        rows.append([name, row["kept"], rise, _plain(accuracy, 1), against])
    columns = ["model", "states", "rise of the loss at the cut", "test accuracy, %", "over full"]
    return (
        listings.table(columns, rows)
        + f"\n\nMean ± standard deviation over {_seeds(results['table'])}, {results['steps']:,} "
        + "steps; differences are taken seed by seed. Test: the model that validation chose. "
        + f"Source: `benchmarks/results/{_file(results['recipe'])}.json`."
    )


def damping(results: Json) -> str:
    """One row for each recipe and damping of the fit: the end of training, against the full model.

    Args:
        results: what `benchmarks/mamba_damping.py summary` writes.
    """
    rows = []
    for row in results["table"]:
        accuracy = {part: 100 * row["best_test_accuracy"][part] for part in ("mean", "std")}
        rows.append(
            [
                f"`{row['recipe']}`",
                f"{row['damping']:g}",
                _signed(row["at_cut"]),
                _signed(row["last_val_over_full"]),
                _signed(row["last_test_over_full"]),
                _plain(row["best_test_accuracy"] | accuracy, 1),
            ]
        )
    columns = [
        "recipe",
        "damping",
        "rise at the cut",
        "validation, over full",
        "test, over full",
        "test accuracy, %",
    ]
    return (
        listings.table(columns, rows)
        + f"\n\nNats at the last step, mean ± standard deviation over {_seeds(results['table'])}; "
        + f"`{results['method']}`, {results['kept']} states. "
        + "Source: `benchmarks/results/mamba_damping.json`."
    )


def whole_run(results: Json) -> str:
    """Wall-clock of whole runs with and without the cut.

    Args:
        results: what `benchmarks/mamba_lm.py summary` writes, after `time`.
    """
    times = {(row["arm"], row["precision"]): row for row in results["time"]}
    if not times:
        return "*Not measured yet; `python benchmarks/mamba_lm.py time` does it.*"
    rows = []
    for precision in dict.fromkeys(key[1] for key in times):
        full = times["full", precision]
        for arm in ("full", "cut", "scratch"):
            row = times[arm, precision]
            before, after = (f"{row[f'step_ms_{end}']:.1f}" for end in ("start", "end"))
            speed = full["wall_seconds"] / row["wall_seconds"]
            rows.append(
                [
                    "cut at 10 %" if arm == "cut" else _ARMS[arm],
                    _PRECISIONS.get(precision, precision),
                    f"{before} → {after}" if arm == "cut" else after,
                    f"{full['step_ms_end'] / row['step_ms_end']:.1f} ×",
                    f"{row['wall_seconds']:.1f}",
                    f"{row['train_seconds']:.1f}",
                    f"{row['compression_seconds']:.2f}",
                    f"{speed:.2f} ×",
                    f"{row['val_loss']:.4f}",
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
        + f"\n\nRuns of {full['steps']:,} steps, in the proportions of the recipe's "
        + f"{full['whole']:,}, by `compressm train`: loading, validation, cut, checkpoints and "
        + "test are in the wall-clock; speeds are against the full model in the same precision. "
        + f"One seed, {full['threads']} threads, machine otherwise idle. "
        + f"Source: `benchmarks/results/{_file(results['recipe'])}.json`."
    )


def pace(results: Json) -> str:
    """Milliseconds of a training step at full and at cut size, measured in turns.

    Args:
        results: what `benchmarks/mamba_lm.py summary` writes, after `steps`.
    """
    found = results["pace"]
    if not found:
        return "*Not measured yet; `python benchmarks/mamba_lm.py steps` does it.*"
    full = found[0]
    rows = [
        [
            row["kept"],
            f"{row['best_ms']:.1f}",
            f"{row['median_ms']:.1f}",
            f"{full['best_ms'] / row['best_ms']:.1f} ×",
        ]
        for row in found
    ]
    return (
        listings.table(["states", "best, ms", "median, ms", "speed"], rows)
        + f"\n\nForward, backward and optimizer, 15 rounds of 5 steps in turns, {full['threads']} "
        + f"threads. Source: `benchmarks/results/{_file(results['recipe'])}.json`."
    )


def _file(recipe: str) -> str:
    return recipe.replace("-small", "").replace("-", "_")


def cuts(results: Json, recipe: str, percent: str) -> str:
    """Rise of the loss right after a cut: one row for each method, one column for each size.

    Args:
        results: what `benchmarks/mamba_cut.py summary` writes.
        recipe: whose models.
        percent: of the training before the cut.
    """
    found = [
        row
        for row in results["table"]
        if row["recipe"] == recipe and round(100 * row["point"]) == int(percent)
    ]
    if not found:
        return "*Not measured yet; `python benchmarks/mamba_cut.py run` does it.*"
    cells = {(row["method"], row["kept"]): row["rise"] for row in found}
    sizes = sorted({row["kept"] for row in found}, reverse=True)
    rows = []
    for method in dict.fromkeys(row["method"] for row in found):
        rises = [cells.get((method, size)) for size in sizes]
        rows.append([f"`{method}`", *("–" if rise is None else _signed(rise) for rise in rises)])
    before = found[0]["before"]
    return (
        listings.table(["method", *(f"{size} states" for size in sizes)], rows)
        + f"\n\nRise of the validation loss in nats per byte, from {_plain(before)}, mean ± "
        + f"standard deviation over {_seeds(found)}; no step was taken after the cut. "
        + "Source: `benchmarks/results/mamba_cut.json`."
    )


def recall(results: Json) -> str:
    """Recall accuracy by state dimension: from scratch, and cut early or late.

    Args:
        results: what `benchmarks/recall.py summary` writes.
    """
    table = results["table"]
    full = next(row for row in table if row["arm"] == "full")
    cells = {(row["arm"], row["method"], row["point"], row["kept"]): row for row in table}
    sizes = sorted({row["kept"] for row in table if row["arm"] != "full"}, reverse=True)

    def cell(key: tuple[Any, ...], name: str) -> str:
        row = cells.get(key, {})
        return _plain(row[name], 1) if name in row else "–"

    # Training went on from one method's cuts; the other is there to compare at once.
    other = results["other"]
    used = sorted({row["method"] for row in table if row["arm"] == "cut"} - {other})
    if len(used) != 1:
        raise ValueError(f"recall.json has cuts by {used} besides {other}; expected one method")
    rows = [[full["kept"], *["–"] * 3, _plain(full["test"], 1), "–"]]
    for size in sizes:
        early, late = (("cut", used[0], point, size) for point in (0.1, 0.8))
        rows.append(
            [
                size,
                cell(("scratch", None, None, size), "test"),
                cell(early, "test"),
                cell(late, "after_cut"),
                cell(late, "test"),
                cell(("cut", other, 0.8, size), "after_cut"),
            ]
        )
    columns = [
        "states",
        "from scratch",
        "cut at 10 %, end",
        "cut at 80 %, at once",
        "cut at 80 %, end",
        f"at 80 %, at once, `{other}`",
    ]
    return (
        listings.table(columns, rows)
        + "\n\nAccuracy at the queries in percent, mean ± standard deviation over "
        + f"{_seeds(table)}; cut by `{used[0]}` where nothing else is said. At once: validation, "
        + "before any further step; the others: test, of the model that validation chose. "
        + "Source: `benchmarks/results/recall.json`."
    )


def guards(results: Json) -> str:
    """Where a guard on recall accuracy stopped.

    Args:
        results: what `benchmarks/recall.py summary` writes.
    """
    rows = [
        [
            f"{100 * guard['point']:.0f} %",
            guard["asked"],
            ", ".join(map(str, guard["left"])),
            _plain(guard["before"], 1),
            _plain(guard["after"], 1),
        ]
        for guard in sorted(results["guards"], key=lambda g: (g["point"], -g["asked"]))
    ]
    columns = ["cut at", "asked for", "states left, by seed", "accuracy before, %", "after, %"]
    return (
        listings.table(columns, rows)
        + f"\n\nThe guard allows {results['max_drop']:.0f} point of validation accuracy. "
        + "Source: `benchmarks/results/recall.json`."
    )
