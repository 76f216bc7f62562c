"""Tables of what all experiments say together (`evidence.py`)."""

from __future__ import annotations

from typing import Any

import listings
from cells import plain, signed

Json = dict[str, Any]

_LOST = ("experiment", "states", "way", "better than ours by", "seeds")
# Gaps that show with the digits of the table.
SEEN = 0.05
_NATS = 0.00005


def lost(results: Json) -> str:
    """Where another way is better on average, over all experiments, largest gap first."""
    losses, compared = results["losses"], results["compared"]
    shown = [loss for loss in losses if loss["gap"]["mean"] >= (_NATS if loss["nats"] else SEEN)]
    said = (
        f"In {len(losses)} of {compared} comparisons another way is better on average, in "
        f"{len(shown)} of them by an amount that shows here; {results['own']} of the {compared} "
        f"are with our own way at another time or with another setting. {results['source']}"
    )
    if not shown:
        return said
    rows = [
        [
            f"`{loss['experiment']}`" + (f", {loss['variant']}" if loss["variant"] else ""),
            loss["states"],
            loss["way"],
            f"{signed(loss['gap'], 4)} nats"
            if loss["nats"]
            else f"{signed(loss['gap'], 1)} points",
            loss["gap"]["n"],
        ]
        for loss in shown
    ]
    return f"{listings.table(_LOST, rows)}\n\n{said}"


def quarter(results: Json) -> str:
    """One row for each experiment and size: at most a quarter, against full and scratch."""
    rows = [
        [
            f"`{row['experiment']}`",
            f"{row['full_states']} → {row['states']}",
            *(plain(row[name], 1) for name in ("full", "cut", "scratch")),
            *(signed(row[name], 1) for name in ("gain", "loss")),
            f"{row['better']} of {row['gain']['n']}",
        ]
        for row in results["rows"]
    ]
    if not rows:
        return "*No experiment has all three at a quarter of its states yet.*"
    columns = ["experiment", "states", "never cut", "cut at 10 %", "from scratch"]
    columns += ["cut over scratch", "cut over never cut", "seeds better"]
    return (
        f"{listings.table(columns, rows)}\n\nTest accuracy in percent of the model that validation "
        "chose, of language models that of the next byte; mean ± "
        "standard deviation, differences seed by seed, in points; the last column counts seeds on "
        f"which the cut is better than scratch. {results['source']}"
    )


def energy(results: Json) -> str:
    """One row for each experiment and size: joules of both until equal accuracy."""
    rows = [
        [
            _where(row),
            row["states"],
            *(_joules(row, name) for name in ("full", "cut")),
            "–" if row["full_at_first"] or row["cut_at_first"] else plain(row["ratio"], 2),
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
        "mean ± standard deviation. At most (≤): at least one seed was there at the first look at "
        "it, a model that is cut not before the cut. How they were found, as the files say: "
        f"{'; '.join(results['methods'])}. {results['source']}"
    )


def _gap(loss: Json) -> str:
    digits, unit = (4, "nats") if loss["nats"] else (1, "points")
    return f"{signed(loss['gap'], digits)} {unit}"


def _where(row: Json) -> str:
    """The experiment, and which variant of its recipe."""
    return f"`{row['experiment']}`" + (f", {row['variant']}" if row["variant"] else "")


def _joules(row: Json, name: str) -> str:
    return ("≤ " if row[f"{name}_at_first"] else "") + plain(row[name], 0)


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
