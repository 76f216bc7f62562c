"""Several runs side by side: the rows that terminal and HTML tables share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressm.headline import ACCURACY, headline_of
from compressm.report.names import states_text
from compressm.report.records import Outcome, RunRecord

MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run; every field is text for a cell."""

    label: str
    test: str = MISSING
    validation: str = MISSING
    states: str = MISSING
    parameters: str = MISSING
    wall: str = MISSING
    step: str = MISSING


# Field of a row and the two lines of its column's title.
COLUMNS: tuple[tuple[str, str], ...] = (
    ("label", "run"),
    ("test", "test\nacc. %"),
    ("validation", "valid.\nacc. %"),
    ("states", "states\nper layer"),
    ("parameters", "parameters"),
    ("wall", "whole\nrun, s"),
    ("step", "step\nms"),
)
CAPTION = (
    "Accuracies (of language models: losses, of forecasts: mean squared errors) are those of the "
    "model that validation chose after the last cut. Arrows: before the first → after the last "
    "cut. A step is forward, backward and optimizer (median)."
)


def compare(records: Sequence[RunRecord]) -> list[Row]:
    """One row for each run; an unfinished run has only what its files know so far."""
    return [_row(record) for record in records]


def _row(record: RunRecord) -> Row:
    if record.outcome is not None:
        return _finished(record.label, record.outcome)
    stairs = record.state_dims().values()
    lines = [line for line in record.metrics if headline_of(line, "val")]
    return Row(
        label=f"{record.label} (unfinished, step {record.last_step})",
        validation=_figure(lines[-1], "val") if lines else MISSING,
        states=_arrow(
            states_text([s.states[0] for s in stairs]), states_text([s.states[-1] for s in stairs])
        )
        or MISSING,
        parameters=_parameters(record),
    )


def _parameters(record: RunRecord) -> str:
    """As far as events say."""
    if not record.events:
        return MISSING
    first, last = record.events[0].parameters_before, record.events[-1].parameters_after
    return _arrow(f"{first:,}", f"{last:,}")


def _finished(label: str, run: Outcome) -> Row:
    return Row(
        label=label,
        test=_figure(run.best, "test"),
        validation=_figure(run.best, "val"),
        states=_arrow(
            states_text([*run.states_start.values()]), states_text([*run.states_end.values()])
        ),
        parameters=_arrow(f"{run.parameters_start:,}", f"{run.parameters_end:,}"),
        wall=f"{run.wall_seconds:.1f}",
        step=_step(run),
    )


def _step(run: Outcome) -> str:
    if run.step_ms_start is None or run.step_ms_end is None:
        return MISSING
    if run.states_start == run.states_end:  # two medians of the same model differ by noise alone
        return f"{run.step_ms_end:.1f}"
    return f"{run.step_ms_start:.1f} → {run.step_ms_end:.1f}"


def tradeoffs(records: Sequence[RunRecord]) -> dict[str, Any] | None:
    """What each finished run reached, against its states at the end and against its time.

    The figure is that of the best model on the test part, or on the validation part where no run
    has another; None where fewer than two runs have one.
    """
    for part in ("test", "val"):
        points = []
        for index, record in enumerate(records):
            run = record.outcome
            told = headline_of(run.best, part) if run else None
            if run is None or told is None:
                continue
            points.append(
                {
                    "name": record.label,
                    "color": index,
                    "states": sum(run.states_end.values()),
                    "seconds": run.wall_seconds,
                    "value": told.scale * run.best[f"{part}/{told.name}"],
                    "title": f"{'test' if part == 'test' else 'validation'} {told.axis[0]}",
                    "digits": told.digits,
                }
            )
        titles = {point["title"] for point in points}
        if len(points) > 1 and len(titles) == 1:
            return {"title": titles.pop(), "points": points}
    return None


def _arrow(before: str, after: str) -> str:
    return after if before == after else f"{before} → {after}"


def _figure(figures: Mapping[str, float], part: str) -> str:
    """The headline with one digit less; the title of the column has the unit of accuracies."""
    told = headline_of(figures, part)
    if told is None:
        return MISSING
    number = told.number(figures, part, told.digits - 1)
    return number if told is ACCURACY else f"{number} {told.unit or told.word}"
