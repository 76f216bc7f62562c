"""Elastic: start at some size, and grow or be cut on the way, as the spectra ask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from compressm.baselines.base import TASK, Baseline, FullModel, Objective, register_baseline
from compressm.baselines.truncation import with_cuts
from compressm.data.options import check_at_least
from compressm.train.checks import check_share
from compressm.train.config import RunConfig


@final
@register_baseline("elastic")
@dataclass(frozen=True, kw_only=True)
class ElasticSize(Baseline):
    """The recipe from another state dimension on, under the policy `elastic`.

    Attributes:
        states: of every layer at the start.
        tolerance, full, factor, most: of the policy; `most` is its `max_rank`.
        points: at which it may grow or cut, equally spaced.
        until: share of the steps at which the last of them lies.
        method: how states are ranked and reduced.
    """

    states: int
    tolerance: float = 0.01
    full: float = 0.5
    factor: float = 1.5
    most: int | None = None
    points: int = 10
    until: float = 0.5
    method: str = "auto"

    def validate(self) -> None:
        check_at_least("states", self.states, 1)
        check_at_least("points", self.points, 1)
        check_share(self, "until", zero=False)

    def configure(self, config: RunConfig) -> RunConfig:
        model = dataclasses.replace(config.model, state_dim=self.states)
        policy: dict[str, Any] = {"name": "elastic", "tolerance": self.tolerance}
        policy |= {"full": self.full, "factor": self.factor, "max_rank": self.most}
        config = dataclasses.replace(config, model=model, compress=None)
        return with_cuts(config, policy, cuts=self.points, window=self.until, method=self.method)

    def objective(self, config: RunConfig, full: Callable[[], FullModel]) -> Objective:
        return TASK
