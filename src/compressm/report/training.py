"""The figure of one or several runs: state dimensions and the validation figure over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from compressm.headline import ACCURACY, HEADLINES, Headline
from compressm.report.names import short_names, states_text
from compressm.report.records import RunRecord, Staircase
from compressm.report.theme import LIGHT, Theme

# Share of the run whose figures set the lower end of their axis; the climb from chance at the
# start would press all that follows into one line.
_SETTLED = 0.2


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of the state panel: a layer."""

    run: str
    layer: str
    legend: str
    in_legend: bool
    color: str
    dash: str
    width: float
    stairs: Staircase


def training_figure(records: Sequence[RunRecord], theme: Theme = LIGHT) -> go.Figure:
    """Above the state dimension of every layer, below the validation figure; cuts are marked.

    The figure is that of all runs: a loss of language models, an error of forecasts, else accuracy.

    Of one run every layer has its colour. Of several, every run has, and its layers share it.
    """
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.45, 0.55]
    )
    lines = list(_layers(records, theme) if len(records) == 1 else _runs(records, theme))
    for line in lines:
        figure.add_scatter(
            x=line.stairs.steps,
            y=line.stairs.states,
            name=line.legend,
            legendgroup=line.legend,
            showlegend=line.in_legend,
            line={
                "shape": "hv",
                "color": line.color,
                "dash": line.dash,
                "width": line.width,
            },
            mode="lines",
            hovertemplate=f"%{{y}} states<extra>{line.run} {line.layer}</extra>",
            row=1,
            col=1,
        )
    shown = _shown(records)
    for index, record in enumerate(records):
        steps, values = record.series(f"val/{shown.name}")
        alone = len(records) == 1
        figure.add_scatter(
            x=steps,
            y=[shown.scale * value for value in values],
            name=record.label,
            legendgroup="accuracy" if alone else _legend(record),
            showlegend=False,
            line={"color": theme.ink if alone else theme.color(index), "width": 2},
            mode="lines+markers",
            marker={"size": 5},
            hovertemplate=f"%{{y:.{shown.digits}f}} {shown.unit}",
            row=2,
            col=1,
        )
    _mark_cuts(figure, records, theme)
    figure.update_layout(
        **theme.layout(
            height=620,
            margin={"l": 80, "r": 30, "t": 80, "b": 60},
            legend={"orientation": "h", "y": 1.06, "yanchor": "bottom", "x": 0},
        )
    )
    end = max(record.last_step for record in records)
    figure.update_xaxes(**theme.axis(range=[0, end * 1.01 or 1]))
    figure.update_xaxes(title="training step", row=2, col=1)
    figure.update_yaxes(**theme.axis(title={"standoff": 12}))
    figure.update_yaxes(title="state dimension", **_powers_of_two(lines), row=1, col=1)
    figure.update_yaxes(
        title=f"validation {shown.axis[0]}", range=_settled_range(records, shown), row=2, col=1
    )
    return figure


def _shown(records: Sequence[RunRecord]) -> Headline:
    """The first headline that all runs have."""
    return next(
        (h for h in HEADLINES if all(record.series(f"val/{h.marker}")[0] for record in records)),
        ACCURACY,
    )


def _layers(records: Sequence[RunRecord], theme: Theme) -> Iterator[_Line]:
    (record,) = records
    stairs = record.state_dims()
    names = short_names(stairs)
    for index, (site, values) in enumerate(stairs.items()):
        yield _Line(
            run=record.label,
            layer=names[site],
            legend=f"{names[site]}: {_course([values])} states",
            in_legend=True,
            color=theme.color(index),
            dash=theme.dash(index),
            width=_width(index, len(stairs)),
            stairs=values,
        )


def _runs(records: Sequence[RunRecord], theme: Theme) -> Iterator[_Line]:
    for index, record in enumerate(records):
        stairs = record.state_dims()
        names = short_names(stairs)
        for position, (site, values) in enumerate(stairs.items()):
            yield _Line(
                run=record.label,
                layer=names[site],
                legend=_legend(record),
                in_legend=position == 0,
                color=theme.color(index),
                dash=theme.dash(index),
                width=_width(index, len(records)),
                stairs=values,
            )


def _width(index: int, count: int) -> float:
    """Later lines lie on earlier ones of the same height, so the earlier are drawn wider."""
    return min(2 + 1.5 * (count - 1 - index), 6)


def _legend(record: RunRecord) -> str:
    return f"{record.label}: {_course([*record.state_dims().values()])} states"


def _course(stairs: Sequence[Staircase]) -> str:
    before = states_text([s.states[0] for s in stairs])
    after = states_text([s.states[-1] for s in stairs])
    return after if before == after else f"{before} → {after}"


def _mark_cuts(figure: go.Figure, records: Sequence[RunRecord], theme: Theme) -> None:
    steps = sorted({event.step for record in records for event in record.cuts if event.step})
    for step in steps:
        figure.add_vline(x=step, line={"color": theme.muted, "width": 1, "dash": "dot"})
    if steps:
        figure.add_annotation(
            text=f"← {len(steps)} cut{'s' if len(steps) > 1 else ''}",
            x=steps[-1],
            y=1,
            xref="x",
            yref="y domain",
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"color": theme.muted},
        )


def _powers_of_two(lines: Sequence[_Line]) -> dict[str, object]:
    """A logarithmic axis in powers of two around all state dimensions."""
    states = [n for line in lines for n in line.stairs.states if n > 0] or [1]
    low, high = math.floor(math.log2(min(states))), math.ceil(math.log2(max(states)))
    margin = 0.15
    return {
        "type": "log",
        "tickvals": [2**k for k in range(low, high + 1)],
        "range": [(low - margin) * math.log10(2), (high + 2 * margin) * math.log10(2)],
    }


def _settled_range(records: Sequence[RunRecord], shown: Headline) -> list[float] | None:
    settled = []
    for record in records:
        points = list(zip(*record.series(f"val/{shown.name}"), strict=True))
        late = [value for step, value in points if step >= _SETTLED * record.last_step]
        settled += [shown.scale * value for value in late or [value for _, value in points]]
    if not settled:
        return None
    low, high = min(settled), max(settled)
    margin = max(0.08 * (high - low), shown.axis[1])
    return [max(0.0, low - margin), high + margin]
