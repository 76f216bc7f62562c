"""Do optimizer moments that follow a cut help? Training loss after it, with each rule."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, final

import torch

from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.experiments.bench import Bench, Figures, Live
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.once import compress_
from compressm.policies import FixedRank

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=4e-3, weight_decay=0.05),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=1e-3),
    "SGD with momentum": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
}


@final
@register_kind("transport")
@dataclass(frozen=True, kw_only=True)
class TransportRun(Kind):
    """Train, cut, and train on with moments that followed the cut and with new ones.

    The learning rate is constant, and both copies see the same batches and the same dropout.

    Attributes:
        optimizer: a name in `OPTIMIZERS`.
        method: of the cut.
        kept: states of every layer.
        before, after: steps before the cut and after it.
        early: the first steps after the cut, which are also averaged by themselves.
        batches: training batches that data-driven methods look at.
    """

    optimizer: str
    method: str
    kept: int
    before: int = 150
    after: int = 200
    early: int = 20
    batches: int = 4

    def validate(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}"
            )
        for name in ("kept", "before", "after", "early", "batches"):
            check_at_least(name, getattr(self, name), 1)

    def run(self, place: Workplace) -> Figures:
        bench = place.bench
        live = bench.live()
        live.optimizer = OPTIMIZERS[self.optimizer](live.model.parameters())  # type: ignore[assignment]
        live.schedule = torch.optim.lr_scheduler.LambdaLR(live.optimizer, lambda step: 1.0)
        _steps(bench, live, self.before)
        found: Figures = {}
        rules: tuple[Literal["project", "reset"], ...] = ("project", "reset")
        for rule in rules:
            other = copy.deepcopy(live)
            compress_(
                other.model,
                other.optimizer,
                policy=FixedRank(self.kept),
                method=self.method,
                data=bench.calibration(self.batches),
                transport=rule,
            )
            losses = _steps(bench, other, self.after)
            found[f"{rule}_loss_nats"] = fmean(losses) if math.isfinite(losses[-1]) else None
            found[f"{rule}_early_loss_nats"] = fmean(losses[: self.early])
        return found


def _steps(bench: Bench, live: Live, count: int) -> list[float]:
    """The training loss of each step; dropout depends on the step alone."""
    losses = []
    live.model.train()
    for _ in range(count):
        torch.manual_seed(live.step)
        losses.append(bench.advance(live)[1])
    return losses
