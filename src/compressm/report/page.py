"""One HTML file that opens without a network: words, tables, charts, and what they are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from compressm.errors import MissingExtraError
from compressm.report.charts import Chart, plain
from compressm.report.comparison import CAPTION, COLUMNS, Row, compare, tradeoffs
from compressm.report.curves import loss_chart, metric_chart
from compressm.report.records import RunRecord
from compressm.report.spectra import spectra_data, spectra_table
from compressm.report.states import states_chart
from compressm.report.story import facts, reasons, summary
from compressm.report.tables import Table, attempt_table, cost_table, points_table, states_table
from compressm.report.theme import DARK, LIGHT
from compressm.storage.files import write_text
from compressm.version import __version__

_ASSETS = files("compressm.report") / "assets"
# In this order: each uses what those before it define.
_SCRIPTS = ("draw.js", "spectra.js", "page.js")


def write_page(path: Path, records: Sequence[RunRecord], *, title: str, note: str = "") -> None:
    """Write the page. Plotly's script (some 5 MB) is in it, so it opens anywhere, offline too.

    Raises:
        MissingExtraError: plotly or jinja2 is not installed.
        OutputError: the file cannot be written.
    """
    write_text(path, page_text(records, title=title, note=note))


def page_text(records: Sequence[RunRecord], *, title: str, note: str = "") -> str:
    """The page as text."""
    try:
        from jinja2 import Environment
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError(error.name or "plotly", "report") from error
    spectra = [spectra_data(record) for record in records]
    charts = [states_chart(records), metric_chart(records), loss_chart(records)]
    drawn = [chart for chart in charts if any(line.x for line in chart.lines)]
    # Everything that is not known to be markup is escaped: names of runs and layers are others'.
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        _asset("page.html")
    )
    return template.render(
        title=title,
        version=__version__,
        note=note,
        css=_asset("page.css"),
        light=LIGHT.css(),
        dark=DARK.css(),
        columns=[words for _, words in COLUMNS],
        rows=[_cells(row) for row in compare(records)],
        caption=CAPTION,
        charts=[(chart, *_WORDS[chart.name], _behind(chart, records)) for chart in drawn],
        runs=[_run(*pair) for pair in zip(records, spectra, strict=True)],
        timed=any(line.seconds for chart in drawn for line in chart.lines),
        data=_script_text(
            {
                "charts": [chart.to_dict() for chart in drawn],
                "spectra": [data for data in spectra if data],
                "tradeoffs": plain(tradeoffs(records)),
            }
        ),
        plotly=get_plotlyjs(),
        scripts=[_asset(name) for name in _SCRIPTS],
    )


# Heading of a chart, and how to read it.
_WORDS = {
    "states": (
        "States of each layer",
        "Triangles are cuts (upwards: growth), open ones on trial, and squares where a trial was "
        "passed; crosses are cuts that were undone, circles events at which nothing was cut. "
        "Choose a line to see its spectrum.",
    ),
    "metric": (
        "Validation",
        "Dotted lines are cuts. The axis leaves out the way from chance at the start; zoom out by "
        "a double click.",
    ),
    "loss": ("Loss", "Of the training (a mean over the logged steps), and of the validation."),
}


def _behind(chart: Chart, records: Sequence[RunRecord]) -> list[tuple[str, Table]]:
    if chart.name == "states":
        return [(record.label, states_table(record)) for record in records]
    return [("", points_table(chart))]


def _run(record: RunRecord, spectra: dict[str, Any] | None) -> dict[str, Any]:
    """What the page says about one run alone."""
    return {
        "label": record.label,
        "live": record.outcome is None,
        "summary": summary(record),
        "reasons": reasons(record),
        "costs": cost_table(record) if record.events else None,
        "attempts": attempt_table(record),
        "spectra": spectra_table(record) if spectra else None,
        "settings": record.settings_text,
        "facts": facts(record),
    }


def _cells(row: Row) -> list[str]:
    return [getattr(row, name) for name, _ in COLUMNS]


def _script_text(data: Any) -> str:
    """JSON that can stand in a script element, whatever names are in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
