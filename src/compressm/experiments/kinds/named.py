"""From the `kind:` of an arm to what is done: a kind of run, or a baseline that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressm.arguments import did_you_mean
from compressm.baselines import BASELINES, Baseline
from compressm.errors import ConfigError
from compressm.experiments.kinds.base import KINDS, Kind
from compressm.experiments.kinds.trained import Trained
from compressm.train.parse import build_dataclass


def kind_settings(name: object) -> type[Kind] | type[Baseline]:
    """The dataclass of the settings that an arm of this kind takes.

    Raises:
        ConfigError: there is no such kind of run or baseline; all are listed.
    """
    if name in KINDS:
        return KINDS.find(name)
    if name in BASELINES:
        return BASELINES.find(name)
    known = sorted([*KINDS, *BASELINES])
    raise ConfigError(
        f"kind: expected one of {', '.join(known)}, got {name!r}{did_you_mean(str(name), known)}"
    )


def build_kind(name: str, values: Mapping[str, Any], where: str) -> Kind:
    """What an arm of this kind does.

    Raises:
        ConfigError: unusable settings; the message begins with `where`.
    """
    settings = build_dataclass(kind_settings(name), values, where)
    return Trained(baseline=settings) if isinstance(settings, Baseline) else settings


def settings_of(kind: Kind) -> Kind | Baseline:
    """What holds the settings of an arm."""
    return kind.baseline if isinstance(kind, Trained) else kind
