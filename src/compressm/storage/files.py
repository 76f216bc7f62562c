"""Files that are there whole or not at all.

A write goes to a neighbour of the file first, is flushed to the disk, and then takes the file's
name in one step: a process that dies at any moment leaves the old file or the new one. What is
written has the permissions of the file that it replaces, or those that the umask gives.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from compressm.errors import CheckpointError, OutputError
from compressm.version import stamp

# What a kill in the middle of a write leaves behind; the next write of the file takes it over.
PARTIAL = ".partial"


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OutputError: it cannot be written; a former one is as it was.
    """
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError: it cannot be written; a former one is as it was.
    """
    replace_file(Path(path), lambda partial: partial.write_bytes(content))


def append_record(path: str | Path, values: Mapping[str, Any]) -> None:
    """Add a line of JSON to a log, which is made if it is not there; whole, if the system lets us.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(path)
    line = json.dumps({**stamp(), **values})
    before = path.stat().st_size if path.is_file() else None
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        if before is not None:
            with contextlib.suppress(OSError):
                os.truncate(path, before)
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error


def make_folder(path: str | Path) -> None:
    """Make a folder, and those that it is in, where they are not there yet.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {path} cannot be made: {reason(error)}") from error


def read_text(path: str | Path) -> str:
    """The content of a text file.

    Raises:
        CheckpointError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is damaged: it is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error


def write_folder(
    path: str | Path, write: Callable[[Path], object], *, stale: Callable[[str], bool], last: str
) -> None:
    """Write a folder of files, with a new folder whole or not at all.

    In a folder that is there already its files are replaced one by one, and others stay.

    Args:
        path: of the folder.
        write: puts the files into an empty folder beside it.
        stale: whether a file of the former content, by its name, would be taken for one of the new.
        last: name of the file that is replaced after all others.

    Raises:
        OutputError: it cannot be written; a former content is as it was.
    """
    folder = Path(os.path.realpath(path))
    partial = folder.with_name(folder.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        mode = _fresh_mode(partial / last)
        write(partial)
        made = sorted(partial.iterdir(), key=lambda file: file.name == last)
        for file in made:
            _settle(file, folder / file.name, mode)
        if not folder.exists():
            os.replace(partial, folder)
            return
        for old in folder.iterdir():
            if stale(old.name) and not (partial / old.name).exists():
                old.unlink()
        for file in made:
            os.replace(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def reason(error: Exception) -> str:
    """Why the system refused a file, without the path, which our messages name themselves."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside this one, which then takes its name.

    Raises:
        OutputError: it cannot be written; a former one is as it was.
    """
    # Of a link the file that it names is replaced, not the link.
    file = Path(os.path.realpath(path))
    partial = file.with_name(file.name + PARTIAL)
    try:
        mode = _fresh_mode(partial)
        write(partial)
        _settle(partial, file, mode)
        os.replace(partial, file)
        if os.name == "posix":  # the new name itself is on the disk only once its folder is
            folder = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        # A write that failed leaves nothing; after one that did not, this name is gone.
        with contextlib.suppress(OSError):
            partial.unlink()


def _fresh_mode(path: Path) -> int:
    """The permissions that a new file gets at this unused name; it is there then, and empty."""
    path.unlink(missing_ok=True)
    path.touch()
    return path.stat().st_mode


def _settle(written: Path, file: Path, mode: int) -> None:
    """Make what was written ready to take the place of `file`: permissions, and on the disk.

    safetensors gives its files to their owner alone, whatever the umask says.
    """
    if file.exists():
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"{file} is no ordinary file, so it cannot be replaced")
    written.chmod(stat.S_IMODE(mode))
    with written.open("rb") as content:
        os.fsync(content.fileno())
