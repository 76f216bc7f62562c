"""Folders that are there with all that belongs into them, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressm.errors import OutputError
from compressm.storage.files import PARTIAL, reason

# What a folder is called while another takes its place.
_FORMER = ".former"


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to be filled, which takes its name when the body ends.

    A body that raises leaves nothing, and a former folder of that name as it was. One that does
    not replaces it, with all that was in it.

    Raises:
        OutputError: it cannot be made, or cannot take its name.
    """
    folder = Path(os.path.realpath(path))
    partial = folder.with_name(folder.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        with _writing(path):
            partial.mkdir()
        yield partial
        with _writing(path):
            _replace(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(folder: Path, partial: Path) -> None:
    """Put one folder in the place of another, which is back if that fails."""
    former = folder.with_name(folder.name + _FORMER)
    shutil.rmtree(former, ignore_errors=True)
    try:
        if folder.exists():
            os.replace(folder, former)
        os.replace(partial, folder)
    except BaseException:  # also Ctrl-C
        if former.exists() and not folder.exists():
            os.replace(former, folder)
        raise
    shutil.rmtree(former, ignore_errors=True)


@contextmanager
def _writing(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
