"""Numbers as they are written on the command line, alone and by layer."""

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


def layer_ranks_in(text: str) -> dict[str, int]:
    """The states of "blocks.0=16,blocks.1=4", by layer.

    Raises:
        ConfigError: something else stands there, or a layer twice.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        site, equals, number = (word.strip() for word in part.rpartition("="))
        if not equals or site in found or len(ranks := ranks_in(number)) != 1:
            raise ConfigError(
                f"rank: got {part.strip()!r} in {text!r}, expected each layer once, as in "
                "--rank blocks.0.layer=16,blocks.1.layer=4"
            )
        (found[site],) = ranks
    return found
