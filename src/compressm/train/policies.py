"""Policies from recipes and the command line: a name and keywords."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from compressm.arguments import did_you_mean
from compressm.data.options import check_type
from compressm.errors import ConfigError, InputError
from compressm.policies.base import POLICIES, Policy


def build_policy(settings: Mapping[str, Any]) -> Policy:
    """The policy that {name: energy, tolerance: 0.1} describes.

    Raises:
        ConfigError: no such policy, an unknown or missing keyword, or an unusable value.
    """
    keywords = dict(settings)
    name = keywords.pop("name", None)
    try:
        cls = POLICIES.find(name, "policy.name")
    except InputError as error:
        raise ConfigError(str(error)) from error
    hints = typing.get_type_hints(cls)
    known = {entry.name: entry for entry in dataclasses.fields(cls)}
    for key, value in keywords.items():
        if key not in known:
            raise ConfigError(
                f"policy {name!r} has no setting {key!r}{did_you_mean(key, known)}; "
                f"it has: {', '.join(known)}"
            )
        check_type(f"policy.{key}", value, hints[key])
    missing = [
        key
        for key, entry in known.items()
        if key not in keywords and entry.default is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"policy {name!r} needs a value for: {', '.join(missing)}")
    try:
        return cls(**keywords)
    except InputError as error:
        raise ConfigError(f"policy {name!r}: {error}") from error
