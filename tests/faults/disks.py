"""Disks that are full."""

import errno

ENOSPC = OSError(errno.ENOSPC, "No space left on device")


class Full:
    """A file on a disk that fills up after so many bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        if not self._room:
            raise ENOSPC
        written = self._file.write(data[: self._room])
        self._room -= written
        return written
