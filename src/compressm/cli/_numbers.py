"""Numbers as they are written on the command line."""

from __future__ import annotations

import re

from compressm.errors import ConfigError


def ranks_in(text: str) -> list[int]:
    """The numbers of "64,32,16", each once.

    Raises:
        ConfigError: something else stands there.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", word) and int(word) for word in words):
        raise ConfigError(
            f"rank: expected an integer >= 1, or several between commas, got {text!r}; for "
            "example --rank 16, or --rank 64,32,16"
        )
    return list(dict.fromkeys(map(int, words)))
