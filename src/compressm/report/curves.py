"""The charts of the validation figure and of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressm.headline import ACCURACY, HEADLINES, Headline
from compressm.report.charts import POINTS, Chart, Line, end, marks, seconds, thinned
from compressm.report.records import RunRecord

# Share of the run whose figures set the lower end of their axis; the climb from chance at the
# start would press all that follows into one line.
_SETTLED = 0.2


def metric_chart(records: Sequence[RunRecord]) -> Chart:
    """The validation figure: a loss of language models, an error of forecasts, else accuracy."""
    shown = shown_headline(records)
    lines = []
    for index, record in enumerate(records):
        steps, values = record.series(f"val/{shown.name}")
        lines.append(
            _curve(record, record.label, steps, [shown.scale * v for v in values], index, records)
        )
    return Chart(
        name="metric",
        y_title=f"validation {shown.axis[0]}",
        lines=lines,
        marks=marks(records),
        y_range=_settled_range(records, shown),
        digits=shown.digits,
        end=end(records),
    )


def loss_chart(records: Sequence[RunRecord]) -> Chart:
    """The training loss, faint, and the validation loss."""
    lines = []
    for index, record in enumerate(records):
        for part, faint in (("train", True), ("val", False)):
            steps, values = record.series(f"{part}/loss")
            name = "training" if faint else "validation"
            if len(records) > 1:
                name = f"{record.label}, {name}"
            lines.append(_curve(record, name, steps, values, index, records, faint))
    return Chart(
        name="loss",
        y_title="loss",
        lines=[line for line in lines if line.x],
        marks=marks(records),
        end=end(records),
    )


def _curve(
    record: RunRecord,
    name: str,
    steps: Sequence[int],
    values: Sequence[float],
    index: int,
    records: Sequence[RunRecord],
    faint: bool = False,
) -> Line:
    kept = thinned(len(steps), POINTS)
    steps, values = [steps[i] for i in kept], [values[i] for i in kept]
    return Line(
        name=name,
        x=steps,
        y=values,
        seconds=seconds(record, steps),
        color=-1 if len(records) == 1 else index,
        points=not faint and len(steps) <= 60,
        faint=faint,
    )


def shown_headline(records: Sequence[RunRecord]) -> Headline:
    """The first headline that all runs have."""
    return next(
        (h for h in HEADLINES if all(record.series(f"val/{h.marker}")[0] for record in records)),
        ACCURACY,
    )


def _settled_range(records: Sequence[RunRecord], shown: Headline) -> tuple[float, float] | None:
    settled = []
    for record in records:
        points = list(zip(*record.series(f"val/{shown.name}"), strict=True))
        late = [value for step, value in points if step >= _SETTLED * record.last_step]
        settled += [shown.scale * value for value in late or [value for _, value in points]]
    settled = [value for value in settled if math.isfinite(value)]
    if not settled:
        return None
    low, high = min(settled), max(settled)
    margin = max(0.08 * (high - low), shown.axis[1])
    return max(0.0, low - margin), high + margin
