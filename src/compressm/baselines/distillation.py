"""Knowledge distillation: a small model from scratch that follows the trained full-size one.

B sequences or labelled steps, K classes or tokens, T temperature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.baselines.base import Baseline, Cost, FullModel, Objective, register_baseline
from compressm.baselines.scratch import Scratch
from compressm.data import UNLABELLED
from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.train.build import cross_entropy, logits_of
from compressm.train.checks import check_above, check_share
from compressm.train.config import RunConfig
from compressm.train.folder import RunFolder
from compressm.train.model_files import load_run_model


@final
@register_baseline("distillation")
@dataclass(frozen=True, kw_only=True)
class Distillation(Baseline):
    """(1 - α) CE + α T² KL(teacher ‖ student), logits of both divided by T in the second term.

    Of a language model every token that has a label counts. The teacher's training is part of the
    cost.

    Attributes:
        kept: states of every layer of the student.
        temperature: T.
        alpha: α, the share of the teacher.
        teacher: folder of a finished run; None trains the recipe's own model first.

    Source: Hinton, Vinyals and Dean, arXiv 1503.02531; T = 2, α = 0.5 as in arXiv 2510.02823.
    """

    kept: int
    temperature: float = 2.0
    alpha: float = 0.5
    teacher: str | None = None

    def validate(self) -> None:
        check_at_least("kept", self.kept, 1)
        check_above(self, "temperature")
        check_share(self, "alpha")

    def configure(self, config: RunConfig) -> RunConfig:
        return Scratch(kept=self.kept).configure(config)

    def objective(self, config: RunConfig, full: Callable[[], FullModel]) -> Objective:
        found = full() if self.teacher is None else finished(Path(self.teacher))
        teacher = found.model.eval().requires_grad_(False)

        def loss(model: nn.Module, batch: Mapping[str, Tensor], step: int) -> Tensor:
            labels = batch["labels"]
            if labels.is_floating_point():
                raise ConfigError(
                    "the baseline distillation follows probabilities of classes, which a forecast "
                    "has none of; take scratch or hankel-nuclear-norm"
                )
            logits = logits_of(model, batch)
            with torch.no_grad():
                wanted = logits_of(teacher, batch)
            own = cross_entropy(logits, labels)
            return (1 - self.alpha) * own + self.alpha * self.divergence(wanted, logits, labels)

        return Objective(loss=loss, before=found.cost)

    def divergence(self, teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
        """T² times the mean of KL(softmax(teacher / T) ‖ softmax(student / T)) over the labels.

        T² makes its gradient as large as that of the cross entropy, whatever T is.

        Args:
            teacher, student: logits (B, K) or (B, L, K).
            labels: (B,) or (B, L).
        """
        counted = labels.flatten() != UNLABELLED
        p, q = (
            (logits.flatten(0, -2)[counted] / self.temperature).log_softmax(-1)
            for logits in (teacher, student)
        )
        mean = functional.kl_div(q, p, reduction="batchmean", log_target=True)
        return self.temperature**2 * mean


def finished(folder: Path) -> FullModel:
    """The model of a finished run, and what its training took.

    Raises:
        CheckpointError: there is no such run, or its model is damaged.
        ConfigError: it is not finished, so nobody knows what it cost.
    """
    run, _ = RunFolder.open(folder)
    if not run.summary.is_file():
        raise ConfigError(
            f"teacher: the run {folder} is not finished, so its cost is not known; "
            f"continue it with: compressm train --resume {folder}"
        )
    model, _ = load_run_model(folder)
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    # One clock was read; on a quiet machine and one thread the other says the same.
    seconds = summary["train_seconds"] + summary["compression_seconds"]
    return FullModel(model=model, cost=Cost(seconds=seconds, processor_seconds=seconds))
