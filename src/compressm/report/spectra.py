"""The figure of one run's singular values: how they fall off in each layer, cut after cut."""

from __future__ import annotations

import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from compressm.events import SiteChange
from compressm.report.names import short_names
from compressm.report.records import RunRecord
from compressm.report.theme import LIGHT, Theme

_COLUMNS = 3


def spectra_figure(record: RunRecord, theme: Theme = LIGHT) -> go.Figure | None:
    """One panel per layer, one line per cut: singular values before it, as shares of the largest.

    The states that the cut kept end at a dot. None for a run without cuts.
    """
    if not record.cuts:
        return None
    sites = [change.site for change in record.cuts[0].sites]
    names = short_names(sites)
    columns = min(_COLUMNS, len(sites))
    rows = math.ceil(len(sites) / columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[names[site] for site in sites],
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.18 / rows,
    )
    for event, color in zip(record.cuts, theme.ramp(len(record.cuts)), strict=True):
        for index, change in enumerate(event.sites):
            row, column = divmod(index, columns)
            _add(figure, f"step {event.step}", change, color, row + 1, column + 1, index == 0)
    figure.update_layout(
        **theme.layout(
            height=110 + 270 * rows,
            margin={"l": 80, "r": 30, "t": 90, "b": 60},
            legend={"orientation": "h", "y": 1 + 0.16 / rows, "yanchor": "bottom", "x": 0},
            hovermode="closest",
        )
    )
    figure.update_xaxes(**theme.axis(rangemode="tozero"))
    figure.update_xaxes(title="state", row=rows)
    figure.update_yaxes(**theme.axis(type="log", exponentformat="power", range=[-6, 0.2]))
    figure.update_yaxes(title="σ / largest σ", col=1)
    return figure


def _add(
    figure: go.Figure, name: str, change: SiteChange, color: str, row: int, column: int, first: bool
) -> None:
    largest = max(change.values, default=0.0)
    if largest == 0:  # a dead layer has nothing to show
        return
    shares = [value / largest for value in change.values]
    # Layers with real output have two singular values for each stored state.
    per_state = max(1, round(len(shares) / change.before))
    x = [(i + 1) / per_state for i in range(len(shares))]
    figure.add_scatter(
        x=x,
        y=shares,
        name=name,
        legendgroup=name,
        showlegend=first,
        mode="lines",
        line={"color": color, "width": 2},
        hovertemplate=f"{name}: σ %{{y:.2g}} of the largest<extra></extra>",
        row=row,
        col=column,
    )
    last = change.after * per_state - 1
    if change.after < change.before and last < len(shares):
        figure.add_scatter(
            x=[x[last]],
            y=[shares[last]],
            legendgroup=name,
            showlegend=False,
            mode="markers",
            marker={"color": color, "size": 9},
            hovertemplate=f"{name}: {change.before} → {change.after} states<extra></extra>",
            row=row,
            col=column,
        )
