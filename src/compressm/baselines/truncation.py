"""Recipes that cut the state once, or several times, to a size that is known beforehand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from compressm.errors import ConfigError
from compressm.train.config import CompressConfig, RunConfig


def require_fewer(config: RunConfig, kept: int) -> None:
    """Refuse a size that leaves nothing to cut.

    Raises:
        ConfigError: the recipe has no more states than that.
    """
    if kept >= config.model.state_dim:
        raise ConfigError(
            f"kept: got {kept}, expected fewer than the {config.model.state_dim} states of the "
            f"recipe {config.name}"
        )


def truncated(config: RunConfig, kept: int, *, at: float, method: str) -> RunConfig:
    """The recipe with one cut to `kept` states, after the share `at` of its steps.

    Raises:
        ConfigError: the recipe has no more states, or no registered layer knows the method.
    """
    require_fewer(config, kept)
    return with_cuts(config, {"name": "rank", "rank": kept}, cuts=1, window=at, method=method)


def with_cuts(config: RunConfig, policy: dict[str, Any], **settings: Any) -> RunConfig:
    """The recipe with other cuts than its own; layers of one configuration keep one size."""
    compress = CompressConfig(policy=policy, uniform=True, **settings)
    return dataclasses.replace(config, compress=compress)


def gradual(states: int, kept: int, cuts: int) -> dict[str, Any]:
    """A policy that goes from `states` to `kept` in so many cuts, by about the same share each.

    It keeps ceil(share * N) states at every cut, at least `kept`: the largest share by which the
    last cut arrives there.
    """

    def after(share: float) -> int:
        left = states
        for _ in range(cuts):
            left = max(math.ceil(share * left), kept)
        return left

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if after(middle) == kept else (low, middle)
    return {"name": "fraction", "keep": low, "min_rank": kept, "gate": 1.0}
