"""Small from scratch: train at the size that another run was compressed to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import final

from compressm.baselines.base import TASK, Baseline, FullModel, Objective, register_baseline
from compressm.data.options import check_at_least
from compressm.errors import InputError
from compressm.train.config import RunConfig


@final
@register_baseline("scratch")
@dataclass(frozen=True, kw_only=True)
class Scratch(Baseline):
    """The recipe without compression, at another state dimension from the start.

    Attributes:
        kept: states of every layer.
    """

    kept: int

    @classmethod
    def like(cls, states: Collection[int]) -> Scratch:
        """As large as a compressed model whose layers have these state dimensions.

        All layers of a new model have one: the mean, rounded up, so that it has in all at least
        as many states as the compressed model.

        Raises:
            InputError: `states` is empty.
        """
        if not states:
            raise InputError("states: expected the state dimension of at least one layer, got none")
        return cls(kept=math.ceil(sum(states) / len(states)))

    def validate(self) -> None:
        check_at_least("kept", self.kept, 1)

    def configure(self, config: RunConfig) -> RunConfig:
        model = dataclasses.replace(config.model, state_dim=self.kept)
        return dataclasses.replace(config, model=model, compress=None)

    def objective(self, config: RunConfig, full: Callable[[], FullModel]) -> Objective:
        return TASK
