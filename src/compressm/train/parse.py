"""Plain values and `key=value` overrides into a `RunConfig`, with an error for every slip."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from compressm.arguments import did_you_mean
from compressm.data.options import check_type
from compressm.errors import ConfigError
from compressm.storage.yaml_text import parse_yaml
from compressm.train.config import RunConfig
from compressm.train.models import ModelConfig, kind_of

T = TypeVar("T")


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of nested settings with `model.width=64` and the like applied, left to right.

    Values are YAML: `compress=null`, `compress.policy={name: rank, rank: 16}`.

    Raises:
        ConfigError: an override without "=", or below a setting that has no parts.
    """
    result: dict[str, Any] = _copy(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"override {override!r}: expected key=value, such as model.width=64")
        *parents, leaf = path.split(".")
        target = result
        for depth, key in enumerate(parents):
            if target.get(key) is None:
                target[key] = {}
            target = target[key]
            if not isinstance(target, dict):
                above = ".".join(parents[: depth + 1])
                raise ConfigError(f"override {override!r}: {above} is a single value, not a group")
        target[leaf] = parse_yaml(text, f"override {override!r}")
    return result


def build_config(values: Mapping[str, Any]) -> RunConfig:
    """The checked configuration of nested plain values.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing one, a wrong type or
            a value out of range.
    """
    return build_dataclass(RunConfig, values, "")


def build_dataclass(cls: type[T], values: Any, where: str) -> T:
    """A dataclass of nested plain values; `where` is how errors call the place.

    Raises:
        ConfigError: as `build_config`.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix}expected a group of settings, got {values!r:.60}")
    if cls is ModelConfig:
        cls = typing.cast(type[T], kind_of(values))
    hints = typing.get_type_hints(cls)
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]
    renamed: Mapping[str, str] = getattr(cls, "RENAMED", {})
    for key in values:
        if key in renamed:
            raise ConfigError(f"{prefix}the key {key!r} is no more; write {renamed[key]}")
        if key not in fields:
            raise ConfigError(
                f"{prefix}unknown key {key!r}{did_you_mean(str(key), fields)}; "
                f"the known keys are: {', '.join(fields)}"
            )
    arguments = {
        key: _convert(value, hints[key], f"{where}.{key}" if where else key)
        for key, value in values.items()
    }
    for key, entry in fields.items():
        required = entry.default is entry.default_factory is dataclasses.MISSING
        if required and key not in arguments:
            raise ConfigError(f"{prefix}the key {key!r} is missing")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`, where that loses nothing."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(option, type):
            return build_dataclass(option, value, where)
    if isinstance(value, int) and str(value) in typing.get_args(hint):
        return str(value)  # YAML reads precision: 32 as a number
    check_type(where, value, hint)
    if float in options and int not in options and isinstance(value, int):
        return float(value)
    return value


def _copy(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _copy(value) for key, value in values.items()}
    return values
