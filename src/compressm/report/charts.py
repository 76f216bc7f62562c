"""What the charts of a report show, apart from who draws them: a page, or a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compressm.events import Event
from compressm.report.records import RunRecord
from compressm.report.words import change_text, what_happened

# Points of a line, and marks of a run.
POINTS, MARKS = 1000, 200


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: `y` over steps `x`, at `seconds` of wall-clock where they are known.

    `color` is a place in the cycle of the theme, -1 its ink; `layer` the module path of a layer.
    `stairs`: a value holds until the next step.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    seconds: Sequence[float | None] | None = None
    color: int = 0
    width: float = 2.0
    stairs: bool = False
    points: bool = False
    faint: bool = False
    layer: str | None = None
    legend: bool = True


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An event: its kind, where, and in words."""

    kind: str
    x: int
    seconds: float | None
    text: str
    color: int


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the steps of a run; `powers`: a logarithmic axis in powers of two."""

    name: str
    y_title: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    y_range: tuple[float, float] | None = None
    powers: bool = False
    digits: int = 4
    end: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what is no finite number is None."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def thinned(count: int, most: int) -> list[int]:
    """At most so many of `count` places, evenly; the first and the last are among them."""
    if count <= most:
        return list(range(count))
    return [i * (count - 1) // (most - 1) for i in range(most)]


def marks(records: Sequence[RunRecord]) -> list[Mark]:
    """The events of all runs, without measurements that led to nothing."""
    found = []
    for index, record in enumerate(records):
        events = [e for e in record.events if e.kind != "measured" and e.step is not None]
        for event in (events[i] for i in thinned(len(events), MARKS)):
            step = event.step or 0
            text = _mark_text(event, record.label if len(records) > 1 else "")
            seconds = record.pacing.seconds_at(step)
            mark = Mark(kind=event.kind, x=step, seconds=seconds, text=text, color=index)
            found.append(mark)
    return found


def _mark_text(event: Event, label: str) -> str:
    start = f"{label}, step" if label else "step"
    return f"{start} {event.step}: {what_happened(event)}, {change_text(event)} states"


def end(records: Sequence[RunRecord]) -> int:
    """The last step of all runs."""
    return max(record.last_step for record in records)


def seconds(record: RunRecord, steps: Sequence[int]) -> list[float | None] | None:
    """Wall-clock at these steps; None where the run does not say."""
    pacing = record.pacing
    return [pacing.seconds_at(step) for step in steps] if pacing.seconds else None


def plain(value: Any) -> Any:
    """Values that JSON can hold: six digits, and None for what is no finite number."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
