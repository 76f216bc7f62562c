"""Whether results can be written where they are wanted, asked before the work and not after it.

The only sure way to know is to write: permissions, read-only file systems, full disks and names
that are too long all look alike from outside. What is written to find out is taken away again.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from compressm.errors import ConfigError
from compressm.storage.files import PARTIAL, reason

# More than an empty file: the name of a file still fits on a disk that is full.
_PROBE = bytes(4096)


def require_file(path: str | Path, what: str) -> None:
    """Refuse a path that `write_text` and its like could not write; `what` names the argument.

    Raises:
        ConfigError: it is a folder, its folder is missing or cannot be written, the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{what}: {path} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{what}: {path} is no ordinary file, so it cannot be replaced")
    file = Path(os.path.realpath(path))
    if not file.parent.is_dir():
        raise ConfigError(f"{what}: {path} cannot be written: there is no folder {file.parent}")
    partial = file.with_name(file.name + PARTIAL)
    try:
        partial.write_bytes(_PROBE)
    except OSError as error:
        raise ConfigError(f"{what}: {path} cannot be written: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def require_folder(path: str | Path, what: str) -> None:
    """Refuse a folder that could not be made, or in which no file could be; nothing is made.

    Raises:
        ConfigError: a part of the path is a file, or cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if os.path.lexists(p))
        longest = max(len(os.fsencode(part)) for part in path.absolute().parts)
        if not there.is_dir():
            raise ConfigError(f"{what}: {path} cannot be a folder: {there} is none")
        if hasattr(os, "pathconf") and longest > os.pathconf(there, "PC_NAME_MAX"):
            raise ConfigError(f"{what}: {path} cannot be made: a name in it is too long")
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(_PROBE)
    except OSError as error:
        raise ConfigError(f"{what}: {path} cannot be written: {reason(error)}") from error
