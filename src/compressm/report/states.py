"""The chart of state dimensions over a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressm.report.charts import Chart, Line, end, marks, seconds
from compressm.report.names import short_names, states_text
from compressm.report.records import RunRecord, Staircase

# Layers that are drawn one by one.
LAYERS = 16


def states_chart(records: Sequence[RunRecord]) -> Chart:
    """State dimensions: of one run every layer in its colour, of several every run in its own.

    Of many layers the smallest, the median and the largest are drawn.
    """
    lines = []
    for index, record in enumerate(records):
        stairs = record.state_dims()
        alone = len(records) == 1
        if len(stairs) > LAYERS:
            lines += _summary(record, index, alone)
            continue
        names = short_names(stairs)
        for place, (site, values) in enumerate(stairs.items()):
            own = f"{names[site]}: {course([values])} states"
            whole = f"{record.label}: {course([*stairs.values()])} states"
            drawn = place if alone else index
            lines.append(
                Line(
                    name=own if alone else whole,
                    x=values.steps,
                    y=values.states,
                    seconds=seconds(record, values.steps),
                    color=drawn,
                    width=_width(drawn, len(stairs) if alone else len(records)),
                    stairs=True,
                    layer=site if alone else None,
                    legend=alone or place == 0,
                )
            )
    return Chart(
        name="states",
        y_title="state dimension",
        lines=lines,
        marks=marks(records),
        y_range=_powers(lines),
        powers=True,
        end=end(records),
    )


def _summary(record: RunRecord, index: int, alone: bool) -> list[Line]:
    stairs = [*record.state_dims().values()]
    steps = stairs[0].steps
    columns = [sorted(line.states[i] for line in stairs) for i in range(len(steps))]
    named = (
        ("largest", [column[-1] for column in columns], True),
        (f"median of {len(stairs)} layers", [c[len(c) // 2] for c in columns], False),
        ("smallest", [column[0] for column in columns], True),
    )
    return [
        Line(
            name=f"{words}: {values[0]} → {values[-1]} states"
            if alone
            else f"{record.label}, {words}: {values[0]} → {values[-1]} states",
            x=steps,
            y=values,
            seconds=seconds(record, steps),
            color=index,
            stairs=True,
            faint=faint,
            legend=alone or not faint,
        )
        for words, values, faint in named
    ]


def course(stairs: Sequence[Staircase]) -> str:
    """States at the start and now: "64, 64 → 8, 4"."""
    before = states_text([s.states[0] for s in stairs])
    after = states_text([s.states[-1] for s in stairs])
    return after if before == after else f"{before} → {after}"


def _width(index: int, count: int) -> float:
    """Later lines lie on earlier ones of the same height, so the earlier are drawn wider."""
    return min(2 + 1.5 * (count - 1 - index), 6)


def _powers(lines: Sequence[Line]) -> tuple[float, float]:
    """From the power of two below all state dimensions to the one above."""
    states = [n for line in lines for n in line.y if n] or [1]
    low, high = math.floor(math.log2(min(states))), math.ceil(math.log2(max(states)))
    return 2**low, 2 ** max(high, low + 1)
