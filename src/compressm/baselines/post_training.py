"""Truncation after the training, with and without steps of fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from compressm.baselines.base import TASK, Baseline, FullModel, Objective, register_baseline
from compressm.baselines.truncation import truncated
from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.train.config import RunConfig


@final
@register_baseline("post-training")
@dataclass(frozen=True, kw_only=True)
class PostTraining(Baseline):
    """The recipe in fewer steps, its whole schedule included; a cut; then steps at a low rate.

    All steps together are those of the recipe, so that it costs as many as other arms.

    Attributes:
        kept: states of every layer after the cut.
        fine_tune: share of the steps after the cut; 0: the cut is the end.
        rate: learning rate of these steps, as a share of the recipe's;
        decay: "constant", or "cosine" from there down to the recipe's last.
        method: of the cut.
    """

    kept: int
    fine_tune: float = 0.0
    rate: float = 0.1
    decay: Literal["cosine", "constant"] = "constant"
    method: str = "published"
    beginning: ClassVar[tuple[str, ...]] = ("fine_tune",)

    def validate(self) -> None:
        check_at_least("kept", self.kept, 1)
        if not 0 <= self.fine_tune < 1:
            raise ConfigError(f"fine_tune: got {self.fine_tune}, expected a share in [0, 1)")

    def configure(self, config: RunConfig) -> RunConfig:
        optim = dataclasses.replace(
            config.optim, tail=self.fine_tune, tail_rate=self.rate, tail_decay=self.decay
        )
        config = dataclasses.replace(config, optim=optim)
        return truncated(config, self.kept, at=1 - self.fine_tune, method=self.method)

    def objective(self, config: RunConfig, full: Callable[[], FullModel]) -> Objective:
        return TASK
