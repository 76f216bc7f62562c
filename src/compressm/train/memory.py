"""The C library's memory between the steps of a training."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h; the first may be 32 MiB at most, the second is an int.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_LARGEST_BLOCK, _LARGEST_REST = 32 << 20, (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Ask glibc to keep what a step frees for the next step; whether it will.

    By default it gives large blocks back to the system, which clears each of their pages again
    when the next step asks for them. The process stays as large as its largest step, and cannot
    take this back. Without glibc (macOS, Windows, musl) nothing happens.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST_BLOCK), (_TRIM_THRESHOLD, _LARGEST_REST))
    return all(mallopt(name, value) == 1 for name, value in settings)
