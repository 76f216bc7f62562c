"""Checks for values that come from a recipe: types first, ranges in each options class."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from compressm.arguments import did_you_mean
from compressm.errors import ConfigError

Options = TypeVar("Options")

# More examples, steps or features than anything here can have, or count.
_MOST = 2**31 - 1


def build_options(set_name: str, cls: type[Options], given: dict[str, Any]) -> Options:
    """Build the options dataclass `cls` of the data set `set_name` from a plain dict.

    Raises:
        ConfigError: an unknown option (the known ones are listed), or a value of a wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"data set {set_name!r} has no option {key!r}{did_you_mean(key, known)}; "
                f"its options are: {', '.join(known) if known else '(none)'}"
            )
        check_type(f"option {key!r} of data set {set_name!r}", value, hints[key])
    return cls(**given)


def check_type(what: str, value: object, hint: object) -> None:
    """Raise `ConfigError` unless `value` is what the annotation `hint` says."""
    if not _matches(value, hint):
        raise ConfigError(f"{what}: got {value!r:.60}, expected {_describe(hint)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{what}: got {value}, expected a finite number")


def check_at_least(what: str, value: int | None, minimum: int, at_most: int = _MOST) -> None:
    """Raise `ConfigError` when `value` is given and smaller than `minimum`, or beyond use."""
    if value is not None and value < minimum:
        raise ConfigError(f"{what}: got {value}, expected at least {minimum}")
    if value is not None and value > at_most:
        raise ConfigError(f"{what}: got {value}, expected at most {at_most}")


def _matches(value: object, hint: object) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, part) for part in typing.get_args(hint))
    if origin is not None:
        hint = origin
    if isinstance(value, bool):
        # bool is an int to Python, but "image_size: true" is a mistake.
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, typing.cast(type, hint))


def _describe(hint: object) -> str:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(part) for part in typing.get_args(hint))
    if hint is type(None):
        return "nothing (null)"
    return typing.cast(type, origin or hint).__name__
