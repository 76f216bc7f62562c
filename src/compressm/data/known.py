"""Which data sets there are, and what each can be told; what builds them is in `registry`."""

from __future__ import annotations

import dataclasses
from typing import Any

from compressm.errors import ConfigError
from compressm.registry import Registry


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For a data set without options of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """One registered set: its options dataclass, and one line about it."""

    options: type[Any]
    description: str


KNOWN: Registry[Known] = Registry("data set", "compressm.data.sets", error=ConfigError)


def available() -> dict[str, str]:
    """Every registered data set with one line about it, sorted by name."""
    return {name: KNOWN[name].description for name in sorted(KNOWN)}


def known_options(name: str) -> dict[str, Any]:
    """The options of the data set `name` with their defaults."""
    return dataclasses.asdict(KNOWN.find(name).options())
