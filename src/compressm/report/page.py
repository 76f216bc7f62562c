"""One HTML file with the table and all figures, which opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go

from compressm.report.comparison import CAPTION, COLUMNS, Row
from compressm.storage.files import write_text

_STYLE = """
body { font-family: Helvetica, Arial, sans-serif; color: #1f2328; max-width: 1000px;
       margin: 2rem auto; padding: 0 1rem; line-height: 1.4; }
table { border-collapse: collapse; }
th, td { padding: 0.35rem 0.8rem; border-bottom: 1px solid #e4e8ec; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { white-space: pre-line; vertical-align: bottom; }
p { color: #57606a; }
"""


class Section(NamedTuple):
    """A figure with its heading and a text that says how to read it."""

    heading: str
    text: str
    figure: go.Figure


def write_page(
    path: Path,
    *,
    title: str,
    rows: Sequence[Row],
    sections: Sequence[Section],
    note: str = "",
) -> None:
    """Write the page. Plotly's script (some 5 MB) is in it, so it opens anywhere, offline too."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        _table(rows),
        f"<p>{escape(f'{CAPTION} {note}'.strip())}</p>",
    ]
    for index, section in enumerate(sections):
        parts += [
            f"<h2>{escape(section.heading)}</h2>",
            f"<p>{escape(section.text)}</p>",
            section.figure.to_html(
                full_html=False,
                include_plotlyjs=index == 0,  # once is enough for all figures
                config={"displaylogo": False, "responsive": True},
            ),
        ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n',
    )


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for _, title in COLUMNS)
    lines = [
        "<tr>" + "".join(f"<td>{escape(getattr(row, name))}</td>" for name, _ in COLUMNS) + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{head}</tr>\n{chr(10).join(lines)}</table>"
