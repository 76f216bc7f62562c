"""The table of data sets. A new set is one file in `sets/` with one `@register(name)` in it."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compressm.arguments import did_you_mean
from compressm.errors import ConfigError

if TYPE_CHECKING:
    from compressm.data.config import DataConfig, DataSplits


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For a data set without options of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered set: what builds it, its options dataclass, one line about it."""

    build: Callable[[DataConfig, Any], DataSplits]
    options: type[Any]
    description: str


_entries: dict[str, Entry] = {}

Build = Callable[["DataConfig", Any], "DataSplits"]


def register(name: str, *, options: type[Any] = NoOptions) -> Callable[[Build], Build]:
    """Register `build(config, options) -> DataSplits` as the data set `name`.

    `options` is a frozen dataclass; `DataConfig.options` is checked against its fields, and the
    built instance is the second argument. The first line of the docstring is what
    `available()` shows.

    Raises:
        ConfigError: the name is taken, or the function has no docstring.
    """

    def decorate(build: Build) -> Build:
        if name in _entries:
            raise ConfigError(f"the data set {name!r} is registered already; take another name")
        if not build.__doc__:
            raise ConfigError(f"data set {name!r}: the registered function needs a docstring")
        description = build.__doc__.strip().splitlines()[0]
        _entries[name] = Entry(build=build, options=options, description=description)
        return build

    return decorate


def find(name: str) -> Entry:
    """The entry of `name`.

    Raises:
        ConfigError: no such set; the known ones are listed.
    """
    _discover()
    if name not in _entries:
        raise ConfigError(
            f"there is no data set {name!r}{did_you_mean(name, _entries)}; "
            f"the known ones are: {', '.join(sorted(_entries))}"
        )
    return _entries[name]


def available() -> dict[str, str]:
    """Every registered data set with one line about it, sorted by name."""
    _discover()
    return {name: _entries[name].description for name in sorted(_entries)}


def known_options(name: str) -> dict[str, Any]:
    """The options of the data set `name` with their defaults."""
    return dataclasses.asdict(find(name).options())


def _discover() -> None:
    # Importing a module of `sets` registers it; Python's module table makes this idempotent.
    package = importlib.import_module("compressm.data.sets")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
