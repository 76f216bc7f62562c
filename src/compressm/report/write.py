"""All files of a report: an HTML page, and pictures of the states and the validation figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressm.report.curves import metric_chart
from compressm.report.page import write_page
from compressm.report.pictures import write_png
from compressm.report.records import RunRecord
from compressm.report.states import states_chart
from compressm.report.theme import DARK, LIGHT
from compressm.storage.files import make_folder
from compressm.storage.outputs import require_folder


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        page: report.html.
        pictures: training.png for light pages and training-dark.png for dark ones.
    """

    page: Path
    pictures: tuple[Path, ...]


def write_report(
    records: Sequence[RunRecord], folder: str | Path, *, title: str, note: str = ""
) -> Report:
    """Write report.html, and training.png and training-dark.png, into `folder`.

    Args:
        records: one run or several, see `read_run`.
        folder: made if it is not there; a former report in it is replaced.
        title: heading of the page.
        note: said below its table.

    Raises:
        ConfigError: the folder cannot be written.
        OutputError: the disk is full.
        MissingExtraError: plotly, jinja2 or matplotlib is not installed.
    """
    page = Path(folder) / "report.html"
    require_folder(page.parent, "folder")
    make_folder(page.parent)
    write_page(page, records, title=title, note=note)
    charts = [states_chart(records), metric_chart(records)]
    pictures = []
    for name, theme in (("training.png", LIGHT), ("training-dark.png", DARK)):
        picture = page.with_name(name)
        write_png(charts, picture, theme)
        pictures.append(picture)
    return Report(page=page, pictures=tuple(pictures))
