"""All files of a report: an HTML page, and pictures of the training figure where possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressm.errors import MissingExtraError
from compressm.report.comparison import compare
from compressm.report.records import RunRecord
from compressm.report.theme import DARK, LIGHT
from compressm.storage.files import make_folder
from compressm.storage.outputs import require_folder

_TRAINING = (
    "Above the state dimension of every layer, below the figure of the validation part; dotted "
    "lines are cuts. The axis below leaves out the way from chance at the start."
)
_SPECTRA = (
    "Singular values of every layer as they were measured before each cut, as shares of the "
    "largest. A dot is the last state that the cut kept."
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        page: report.html.
        pictures: training.png for light pages and training-dark.png for dark ones, if any.
        missing: in a few words, why there are no pictures; "" if there are.
    """

    page: Path
    pictures: tuple[Path, ...]
    missing: str


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
        MissingExtraError: plotly is not installed.
    """
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("plotly", "report") from error
    from compressm.report.page import Section, write_page
    from compressm.report.pictures import write_png
    from compressm.report.spectra import spectra_figure
    from compressm.report.training import training_figure

    sections = [Section("Training", _TRAINING, training_figure(records))]
    for record in records:
        figure = spectra_figure(record)
        if figure is not None:
            sections.append(Section(f"Singular values: {record.label}", _SPECTRA, figure))
    page = Path(folder) / "report.html"
    require_folder(page.parent, "folder")
    make_folder(page.parent)
    write_page(page, title=title, rows=compare(records), sections=sections, note=note)
    pictures: list[Path] = []
    for name, theme in (("training.png", LIGHT), ("training-dark.png", DARK)):
        picture = page.with_name(name)
        missing = write_png(training_figure(records, theme), picture)
        if missing:
            return Report(page=page, pictures=tuple(pictures), missing=missing)
        pictures.append(picture)
    return Report(page=page, pictures=tuple(pictures), missing="")
