"""Checks that the dataclasses of a recipe share."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from compressm.data.options import check_type
from compressm.errors import ConfigError


def check_types(config: Any) -> None:
    """Raise `ConfigError` unless every field is what its annotation says."""
    hints = typing.get_type_hints(type(config))
    for entry in dataclasses.fields(config):
        check_type(entry.name, getattr(config, entry.name), hints[entry.name])


def check_above(config: Any, *names: str) -> None:
    """Raise `ConfigError` unless these fields are more than 0, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: got {value}, expected more than 0")


def check_share(config: Any, *names: str, zero: bool = True) -> None:
    """Raise `ConfigError` unless these fields are in [0, 1], or in (0, 1] without zero."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1 or (value == 0 and not zero):
            raise ConfigError(f"{name}: got {value}, expected {'0' if zero else 'more than 0'} … 1")
