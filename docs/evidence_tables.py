"""Tables of what all experiments say together (`evidence.py`)."""

from __future__ import annotations

from typing import Any

import listings
import rival_tables
from cells import plain, seeds, signed

Json = dict[str, Any]

_LOST = ("experiment", "states", "way", "points over ours", "seeds")


def lost(results: Json) -> str:
    """Where another way has the higher mean, over all experiments, largest gap first."""
    losses, compared = results["losses"], results["compared"]
    shown = [loss for loss in losses if loss["gap"]["mean"] >= rival_tables.SEEN]
    said = (
        f"In {len(shown)} of {compared} comparisons another way has the higher mean test accuracy. "
        f"{results['source']}"
    )
    if not shown:
        return said
    rows = [
        [
            f"`{loss['experiment']}`",
            loss["states"],
            _other(loss),
            signed(loss["gap"], 1),
            loss["gap"]["n"],
        ]
        for loss in shown
    ]
    return f"{listings.table(_LOST, rows)}\n\n{said}"


def quarter(results: Json) -> str:
    """One row for each experiment: a quarter of the states, against full and scratch."""
    rows = [
        [
            f"`{row['experiment']}`",
            f"{row['full_states']} → {row['states']}",
            *(plain(row[name], 1) for name in ("full", "cut", "scratch")),
            *(signed(row[name], 1) for name in ("gain", "loss")),
            row["gain"]["n"],
        ]
        for row in results["rows"]
    ]
    if not rows:
        return "*No experiment has all three at a quarter of its states yet.*"
    columns = ["experiment", "states", "never cut", "cut at 10 %", "from scratch"]
    columns += ["cut over scratch", "cut over never cut", "seeds"]
    return (
        f"{listings.table(columns, rows)}\n\nTest accuracy in percent of the model that validation "
        "chose (of the last one in `ablation`), of language models that of the next byte; mean ± "
        "standard deviation, differences seed by seed, in points. "
        f"{results['source']}"
    )


def energy(results: Json) -> str:
    """One row for each experiment and size: joules of both until equal accuracy."""
    rows = [
        [
            f"`{row['experiment']}`",
            row["states"],
            *(plain(row[name], 0) for name in ("full", "cut")),
            plain(row["ratio"], 2),
            row["ratio"]["n"],
        ]
        for row in results["rows"]
    ]
    if not rows:
        return "*No experiment has counted joules of both yet.*"
    columns = ["experiment", "states", "never cut, J", "cut at 10 %, J", "ratio", "seeds"]
    return (
        f"{listings.table(columns, rows)}\n\nJoules of processor and accelerator until the "
        "validation accuracy is a point below the lower of the two runs' best of the same seed; "
        "mean ± standard deviation. How they were found, as the files say: "
        f"{'; '.join(results['methods'])}. {results['source']}"
    )


def cut_seconds(results: Json) -> str:
    """One row for each experiment: seconds of a cut while it trained."""
    rows = [
        [
            f"`{row['experiment']}`",
            row["states"],
            f"`{row['method']}`",
            row["cuts"],
            f"{row['median']:.1f}",
            f"{row['longest']:.1f}",
        ]
        for row in results["rows"]
    ]
    columns = ["experiment", "states before", "method", "cuts", "median, s", "longest, s"]
    return (
        f"{listings.table(columns, rows)}\n\nWall-clock of measuring, planning and cutting, all "
        "layers, calibration data included; other work ran beside most of these. "
        f"{results['source']}"
    )


def settling(results: Json) -> str:
    """One row for each family and method: ranks, and energy that a cut would have removed."""
    rows = [
        [
            row["family"],
            f"`{row['methods'][0]}`",
            plain(row["correlation"], 2),
            f"{row['states_first']['mean']:.1f} → {row['states_last']['mean']:.1f}",
            *(plain(row[name], 1) for name in ("before", "after", "highest")),
        ]
        for row in results["rows"]
    ]
    settings = results["settings"]
    at = f"{100 * settings['first']:.0f} %"
    columns = ["layer", "spectrum of", f"correlation of ranks, {at} and 100 %"]
    columns += [f"states for {100 * (1 - settings['tolerance']):.0f} % of the energy"]
    columns += [f"doomed at {at}, %", "at the end, %", "highest on the way, %"]
    return (
        f"{listings.table(columns, rows)}\n\nModels that are never cut, {results['steps']:,} "
        "steps. Correlation: Spearman's, weighted by energy, of directions followed through "
        f"{settings['looks']} measurements. Doomed: share of the energy in directions that a cut "
        f"at {at} would remove. Mean ± standard deviation over the layers of "
        f"{seeds(results['rows'])}. {results['source']}"
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


def _other(loss: Json) -> str:
    """A way by its name; a cut by its settings: those of several experiments stand together."""
    if loss["arm"] != "cut":
        return rival_tables.name(loss, loss)
    axes = dict(loss["axes"])
    at = f"cut at {100 * axes.pop('at'):.0f} %" if "at" in axes else "cut at 10 %"
    return ", ".join([at, *(f"`{value}`" for value in axes.values())])


def _way(way: str, row: Json) -> str:
    if way.startswith("hankel_norm_every_"):
        every = int(way.rpartition("_")[2])
        often = "every step" if every == 1 else f"every {every} steps"
        return f"Hankel nuclear norm {often}, {row['full_states']} states"
    states = row["full_states"] if way == "full" else row["states"]
    names = {"full": "never cut", "small": "small", "distillation": "small, with a teacher"}
    return f"{names[way]}, {states} states"
