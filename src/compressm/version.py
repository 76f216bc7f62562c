"""The version of compressm, and that of the files that it writes.

Every file says both, so that code which is older than a file can say so instead of misreading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressm.errors import CheckpointError, CompressmError

__version__ = "0.1.0"
# One number for all files: one more whenever one of them changes so that the code from before
# would refuse or misread it. What has no number was written before there were numbers: format 1.
FORMAT = 1
_FORMAT, _WRITER = "format", "compressm"


def stamp() -> dict[str, Any]:
    """What every file says of itself: `{"format": 1, "compressm": "0.1.0"}`."""
    return {_FORMAT: FORMAT, _WRITER: __version__}


def unstamped(
    values: Mapping[str, Any], source: object, error: type[CompressmError] = CheckpointError
) -> dict[str, Any]:
    """The content of a file without its stamp, if this version can read it.

    Args:
        values: what stands in the file; without a stamp it is taken for format 1.
        source: how the error calls the file.
        error: its class.

    Raises:
        CompressmError: the file is of a newer format, or its number is none.
    """
    content = dict(values)
    found, writer = content.pop(_FORMAT, 1), content.pop(_WRITER, None)
    try:
        known = int(found) <= FORMAT
    except (TypeError, ValueError, OverflowError):
        raise error(
            f"{source} is damaged: its format is {found!r:.40}, expected a number"
        ) from None
    if known:
        return content
    newer = f" by compressm {writer}" if writer else ""
    raise error(
        f"{source} was written{newer} in format {found}; this is compressm {__version__}, which "
        f"reads format {FORMAT} and before; update compressm, or take a file of an earlier version"
    )
