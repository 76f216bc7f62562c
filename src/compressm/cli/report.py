"""`compressm report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from compressm.cli import _text
from compressm.errors import ConfigError
from compressm.storage.outputs import require_folder


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder [default: report, in RUN if there is but one]."),
    ] = None,
) -> None:
    """Draw state dimensions, accuracies and singular values of runs, and compare the runs.

    Examples:

        compressm report runs/digits-lru

        compressm report runs/full runs/digits-lru -o comparison
    """
    from compressm.report import compare, read_run, write_report

    places = [Path(os.path.realpath(run)) for run in runs]  # Path.resolve raises on link loops
    if len(set(places)) < len(runs):
        raise ConfigError("the same run is given twice")
    folder = out or (runs[0] / "report" if len(runs) == 1 else Path("report"))
    names = [place.name for place in places]
    # Folders of the same name in different places are told apart by their paths.
    labels = names if len(set(names)) == len(names) else [str(run) for run in runs]
    records = [read_run(run, label) for run, label in zip(runs, labels, strict=True)]
    require_folder(folder, "--out")
    _text.show(_text.console(), "", _text.comparison(compare(records)), _text.CAPTION)
    written = write_report(records, folder, title=", ".join(labels))
    for line in _text.files(written):
        typer.echo(line)
