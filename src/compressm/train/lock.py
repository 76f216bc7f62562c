"""One process at a time in a folder, until it leaves it or dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has other locks, and none on folders
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether no other process is inside for the same folder; nobody else enters until the end.

    The system lets go of the lock when a process dies in any way, so none is left behind. Where it
    has no such locks (Windows, some network file systems) everybody is let in.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        yield handle is None or _take(handle)
    finally:
        if handle is not None:
            os.close(handle)


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
