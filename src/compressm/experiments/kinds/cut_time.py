"""Seconds of a cut by one method, of a model as large as the paper's for sequential CIFAR-10."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import nn

from compressm.calibration import Calibration
from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.experiments.bench import Figures
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.families.lti import METHODS
from compressm.nn import SequenceClassifier
from compressm.once import compress_, measure
from compressm.policies import FixedRank
from compressm.train import loss_of


@final
@register_kind("cut-time")
@dataclass(frozen=True, kw_only=True)
class CutTime(Kind):
    """Seconds of measuring a model of LRUs alone, and of measuring, planning and cutting it.

    The sizes are those of the paper's sCIFAR model, with AdamW state for every parameter.

    Attributes:
        method: of the cut; those that look at data see one batch.
        rounds: the best of so many counts; each cuts a fresh model.
        depth, width, states, kept: of the model, before and after.
        batch, length: of the calibration data.
    """

    method: str
    rounds: int = 2
    depth: int = 6
    width: int = 512
    states: int = 384
    kept: int = 192
    batch: int = 2
    length: int = 1024
    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        for name in ("rounds", "depth", "width", "states", "kept", "batch", "length"):
            check_at_least(name, getattr(self, name), 1)
        if self.method not in METHODS:
            raise ConfigError(f"method: got {self.method!r}, expected one of {', '.join(METHODS)}")

    def run(self, place: Workplace) -> Figures:
        batch = {
            "inputs": torch.randn(self.batch, self.length, 3, device="cpu"),
            "labels": torch.zeros(self.batch, device="cpu").long(),
        }
        looks = METHODS[self.method].needs_data
        how: dict[str, Any] = {"method": self.method}
        how["data"] = Calibration([batch], loss=loss_of) if looks else None
        measured, whole = [], []
        for _ in range(self.rounds):
            model, optimizer = self._model()
            began = time.perf_counter()
            measure(model, **how)
            measured.append(time.perf_counter() - began)
            began = time.perf_counter()
            compress_(model, optimizer, policy=FixedRank(self.kept), **how)
            whole.append(time.perf_counter() - began)
        return {
            "looks_at_data": looks,
            "measure_seconds": min(measured),
            "cut_seconds": min(whole),
        }

    def _model(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = SequenceClassifier(
            input="real",
            features=3,
            width=self.width,
            state_dim=self.states,
            depth=self.depth,
            classes=10,
        )
        optimizer = torch.optim.AdamW(model.parameters())
        for p in model.parameters():
            optimizer.state[p] = {
                "step": torch.tensor(1.0, device="cpu"),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.ones_like(p),
            }
        return model, optimizer
