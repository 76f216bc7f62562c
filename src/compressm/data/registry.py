"""From a configuration to data. A new set is one file in `sets/` with one `@register(name)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compressm.data.config import DataConfig
from compressm.data.known import KNOWN, Known, NoOptions
from compressm.data.task import DataSplits
from compressm.errors import ConfigError

Build = Callable[[DataConfig, Any], DataSplits]

_builders: dict[str, Build] = {}


def register(name: str, *, options: type[Any] = NoOptions) -> Callable[[Build], Build]:
    """Register `build(config, options) -> DataSplits` as the data set `name`.

    `options` is a frozen dataclass; `DataConfig.options` is checked against its fields, and the
    built instance is the second argument. The first line of the docstring is what
    `available()` shows.

    Raises:
        ConfigError: the name is taken, or the function has no docstring.
    """

    def decorate(build: Build) -> Build:
        if not build.__doc__:
            raise ConfigError(f"data set {name!r}: the registered function needs a docstring")
        description = build.__doc__.strip().splitlines()[0]
        KNOWN.register(name)(Known(options=options, description=description))
        _builders[name] = build
        return build

    return decorate


def load(config: DataConfig) -> DataSplits:
    """Load a data set.

    Raises:
        DataError: missing or corrupt files; the message names the file and what to do.
        MissingExtraError: an optional package is not installed.
    """
    options = config.parsed_options()  # finds the set, also in a process that has not looked yet
    return _builders[config.name](config, options)
