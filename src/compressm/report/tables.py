"""Tables of a report, as text in cells: what a figure shows, what cuts cost, what a guard tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compressm.report.charts import Chart
from compressm.report.costs import Cost, costs
from compressm.report.names import short_names, states_text
from compressm.report.records import RunRecord
from compressm.report.words import change_text, what_happened

MISSING = "–"
# Rows of a table on a page; the files of the run have all of them.
MOST = 200
# Columns of the table of states.
_EVENTS = 10


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns, rows of cells, and how many rows there are that are not shown."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left_out: int = 0


def table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], most: int = MOST) -> Table:
    """A table of at most so many rows, evenly from all of them; the first and the last stay."""
    if len(rows) <= most:
        return Table(columns=tuple(columns), rows=tuple(rows))
    kept = [rows[i * (len(rows) - 1) // (most - 1)] for i in range(most)]
    return Table(columns=tuple(columns), rows=kept, left_out=len(rows) - most)


def cost_table(record: RunRecord) -> Table:
    """What each event cost and what it has saved since."""
    found = costs(record)
    columns = ["step", "what", "states", "parameters", "measuring and cutting, s"]
    optional: list[tuple[str, Sequence[str]]] = [
        ("evaluating the metric, s", [_number(c.event.evaluation_seconds or None) for c in found]),
        ("copy for undoing, MB", [_number(_mega(c.event.snapshot_bytes or None)) for c in found]),
        ("ms a step", [_pair(c.ms_before, c.ms_after) for c in found]),
        ("saved since, s", [_number(c.saved_seconds) for c in found]),
        ("training state, MB", [_pair(_mega(c.bytes_before), _mega(c.bytes_after)) for c in found]),
        ("cost, J", [_number(c.cost_joules) for c in found]),
        ("saved since, J", [_number(c.saved_joules) for c in found]),
    ]
    known = [(title, cells) for title, cells in optional if any(c != MISSING for c in cells)]
    rows = [_cost_row(cost, [cells[i] for _, cells in known]) for i, cost in enumerate(found)]
    return table([*columns, *(title for title, _ in known)], rows)


def _cost_row(cost: Cost, more: Sequence[str]) -> tuple[str, ...]:
    event = cost.event
    parameters = f"{event.parameters_before:,} → {event.parameters_after:,}"
    if event.parameters_before == event.parameters_after:
        parameters = f"{event.parameters_after:,}"
    step = MISSING if event.step is None else f"{event.step:,}"
    seconds = _number(event.seconds)
    return (step, what_happened(event), change_text(event), parameters, seconds, *more)


def attempt_table(record: RunRecord) -> Table | None:
    """Every cut that a guard looked at, at its verdict; None where there was none."""
    rows = []
    for event in record.events:
        if event.kind == "trial" and event is not record.events[-1]:
            continue  # the next event has its attempts, too
        for number, attempt in enumerate(event.tried, start=1):
            verdict = {None: "pending", True: "accepted", False: "undone"}[attempt.accepted]
            rows.append(
                (
                    MISSING if event.step is None else f"{event.step:,}",
                    str(number),
                    states_text(list(attempt.ranks.values())),
                    _number(event.metric_before),
                    _number(attempt.metric),
                    verdict,
                )
            )
    columns = ("step", "attempt", "states", "metric before", "metric after", "verdict")
    return table(columns, rows) if rows else None


def states_table(record: RunRecord) -> Table:
    """Each layer at the start, after the first events that changed something, and now."""
    stairs = record.state_dims()
    names = short_names(stairs)
    shown = record.lasting[:_EVENTS]
    after = [{change.site: str(change.after) for change in event.sites} for event in shown]
    rows = [
        (
            names[site],
            str(line.states[0]),
            *(states.get(site, MISSING) for states in after),
            str(line.states[-1]),
        )
        for site, line in stairs.items()
    ]
    return table(["layer", "start", *(f"step {event.step}" for event in shown), "now"], rows)


def points_table(chart: Chart) -> Table:
    """The points of the lines of a chart."""
    rows = [
        (line.name, f"{step:,}", MISSING if seconds is None else f"{seconds:.1f}", _number(value))
        for line in chart.lines
        for step, seconds, value in zip(
            line.x, line.seconds or [None] * len(line.x), line.y, strict=True
        )
    ]
    return table(("line", "step", "wall-clock, s", chart.y_title), rows)


def _mega(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def _number(value: float | None) -> str:
    """Three digits or so."""
    if value is None:
        return MISSING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _pair(before: float | None, after: float | None) -> str:
    if before is None and after is None:
        return MISSING
    return f"{_number(before)} → {_number(after)}"
