"""Tables of the results against other people's ways to a small model (`rivals.summary`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import figures
import listings
from cells import plain, signed

Json = dict[str, Any]

OURS = "cut"
# A gap that shows with one digit.
SEEN = 0.05
_ARMS = {
    "full": "never cut",
    "cut": "cut in training (ours)",
    "scratch": "small from scratch",
    "published": "CompreSSM as published",
    "distillation": "distillation",
    "hankel-norm": "Hankel nuclear norm, then the published cut",
    "hankel-norm-real": "Hankel nuclear norm every 10 steps, then cut",
    "hankel-norm-trained-on": "Hankel nuclear norm every 10 steps, weight 0.01, cut at 90 %",
    "hankel-norm-light": "Hankel nuclear norm every 10 steps, weight 0.003, cut at 90 %",
    "one-cut": "one published cut",
    "scores": "cut in training",
    "random": "cut in training, random directions",
    "worst-first": "cut in training, largest go first",
    "post-training": "cut after training",
    "fine-tuned": "cut after training, fine-tuned",
}
# figure: (digits, what it is)
_FIGURES = {
    "test": (1, "Test accuracy in percent of the model that validation chose"),
    "over": (
        1,
        "Points of test accuracy by which the run that is cut in training is better, seed by seed",
    ),
    "seconds": (
        0,
        "Seconds of processor time: training steps, cuts, and the teacher's training where there "
        "is one",
    ),
    "step": (
        1,
        "Milliseconds of processor time of a training step, mean of those at the final size; where "
        "the cut is the end, of those before",
    ),
    "equal_seconds": (
        1,
        "Validation accuracy in percent, the best by the second at which the run cut in training "
        "of the same seed and size had ended (–: not at that size by then)",
    ),
    "joules": (0, "Joules of processor and accelerator, spent on training and cuts"),
    "seconds_to": (
        0,
        "Seconds of processor time until the validation accuracy is at most a point below the best "
        "of the run cut in training of the same seed and size (–: not every seed came there)",
    ),
    "joules_to": (0, "Joules of processor and accelerator until then"),
}


def rivals(results: Json, key: str, *arms: str) -> str:
    """One row for each way, one column for each size.

    Args:
        results: of `rivals.summary`.
        key: one of `_FIGURES`, or "losses", or "figure": a link to what `drawing` makes.
        arms: rows to show; without them all.
    """
    if key == "losses":
        return _losses(results)
    if key == "figure":
        where = f"assets/{results['experiments'][0]}.svg"
        return f"![Test accuracy by states, one line for each way]({where})"
    digits, caption = _FIGURES[key]
    if not any(row[key] for row in results["rows"]):
        return "*Not measured in these runs.*"
    write = signed if key == "over" else plain
    rows = [
        [name(row, results), *(write(row[key].get(size), digits) for size in results["sizes"])]
        for row in results["rows"]
        if (key, row["arm"]) != ("over", OURS) and (not arms or row["arm"] in arms)
    ]
    header = ["way", *(f"{size} states" for size in results["sizes"])]
    return f"{listings.table(header, rows)}\n\n{caption}. {_seeds(results)} {results['source']}"


def drawing(results: Json) -> str:
    """Test accuracy by size, as an SVG."""
    rows = [row for row in results["rows"] if row["arm"] != "full" and row["test"]]
    full = next((row["test"] for row in results["rows"] if row["arm"] == "full"), {})
    names = [name(row, results).replace("`", "") for row in rows]
    mine = next((name for name, row in zip(names, rows, strict=True) if row["arm"] == OURS), "")
    return figures.lines(
        {name: row["test"] for name, row in zip(names, rows, strict=True)},
        results["sizes"],
        ours=mine,
        level=next(iter(full.values()), None),
        y_label="test accuracy in percent",
    )


def _losses(results: Json) -> str:
    """Where another way has the higher mean, largest gap first."""
    ours = next((row for row in results["rows"] if row["arm"] == OURS), None)
    if ours is None:
        return "*The runs that are cut in training are not there yet.*"
    lines = []
    for row in results["rows"]:
        for size, gap in row["over"].items():
            if row["arm"] not in ("full", OURS) and gap["mean"] <= -SEEN:
                points = plain({**gap, "mean": -gap["mean"]}, 1)
                said = f"- {size} states: {name(row, results)}, by {points} points"
                lines.append((gap["mean"], said))
    if not lines:
        return f"At no size does another way have the higher mean. {results['source']}"
    said = "\n".join(line for _, line in sorted(lines))
    return f"Ways whose mean test accuracy is higher than ours:\n\n{said}\n\n{results['source']}"


def name(row: Mapping[str, Any], results: Json) -> str:
    """What a way is called, with its settings."""
    said = _ARMS.get(row["arm"], row["arm"])
    if row["arm"] == "full":
        return f"{said} ({results['full_size']} states)"
    return ", ".join([said, *(_said(key, value) for key, value in row["axes"].items())])


def _said(key: str, value: Any) -> str:
    if key == "method":
        return f"`{value}`"
    if key == "every":
        return "every step" if value == 1 else f"every {value} steps"
    return f"{key} {value}"


def _seeds(results: Json) -> str:
    n, steps = results["seeds"], results["steps"]
    return f"Mean ± standard deviation over {n} seed{'s' if n > 1 else ''}, {steps:,} steps each."
