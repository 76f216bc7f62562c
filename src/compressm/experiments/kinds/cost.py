"""What compression costs a training: its share of a run, and an idle `step()`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch.utils.benchmark import Timer

from compressm.calibration import Calibration
from compressm.compressor import Compressor
from compressm.data.options import check_at_least
from compressm.engine.schedule import Schedule
from compressm.errors import ConfigError
from compressm.experiments.bench import Figures
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.experiments.speed.lru import SETTINGS, model_call
from compressm.nn import LRU, SequenceClassifier
from compressm.once import compress_
from compressm.policies import EnergyTolerance, FixedFraction
from compressm.train import load_recipe, loss_of


@final
@register_kind("cut-share")
@dataclass(frozen=True, kw_only=True)
class CutShare(Kind):
    """An upper bound on the share of compression in a published run, too long to be repeated here.

    So many full-size cuts by the default method, over all steps at the speed of the smallest model.

    Attributes:
        model: name of a published setting.
        steps, cuts: of the published run.
        batches: of data for each cut.
    """

    model: str = "sMNIST"
    steps: int = 200_000
    cuts: int = 4
    batches: int = 8
    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        known = [setting.name for setting in SETTINGS]
        if self.model not in known:
            raise ConfigError(f"model: got {self.model!r}, expected one of {', '.join(known)}")
        for name in ("steps", "cuts", "batches"):
            check_at_least(name, getattr(self, name), 1)

    def run(self, place: Workplace) -> Figures:
        setting = next(one for one in SETTINGS if one.name == self.model)
        small = model_call(setting, min(setting.states), "auto")
        step = _seconds(small)
        torch.manual_seed(0)
        model = SequenceClassifier(
            input="real",
            features=setting.features,
            width=setting.width,
            state_dim=max(setting.states),
            depth=setting.depth,
            classes=10,
        )
        shape = (setting.batch, setting.length, setting.features)
        batches = [
            {
                "inputs": torch.randn(shape, device="cpu"),
                "labels": torch.randint(10, (setting.batch,), device="cpu"),
            }
            for _ in range(self.batches)
        ]
        data = Calibration(batches, loss=loss_of)
        event = compress_(model, policy=FixedFraction(0.5), data=data)
        return {
            "step_milliseconds": 1e3 * step,
            "cut_seconds": event.seconds,
            "share_percent": 100 * self.cuts * event.seconds / (self.steps * step),
        }


@final
@register_kind("idle-step")
@dataclass(frozen=True, kw_only=True)
class IdleStep(Kind):
    """One `Compressor.step()` when nothing is due."""

    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        """There is nothing to set."""

    def run(self, place: Workplace) -> Figures:
        model = LRU(4, 8)
        compressor = Compressor(
            model,
            torch.optim.AdamW(model.parameters()),
            policy=EnergyTolerance(0.1),
            schedule=Schedule.at(10**9),
        )
        return {"idle_step_microseconds": 1e6 * _seconds(compressor.step)}


@final
@register_kind("recipe-run")
@dataclass(frozen=True, kw_only=True)
class RecipeRun(Kind):
    """A whole run of a recipe with its own cuts, and what of it compression took.

    Attributes:
        recipe: name of a bundled one.
    """

    recipe: str = "digits-lru"
    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        load_recipe(self.recipe)

    def run(self, place: Workplace) -> Figures:
        from compressm.train.run import train

        with tempfile.TemporaryDirectory() as folder:
            found = train(load_recipe(self.recipe), Path(folder) / "run")
        return {
            "steps": found.steps,
            "cuts": found.cuts,
            "wall_seconds": found.wall_seconds,
            "cut_seconds": found.compression_seconds,
            "share_percent": 100 * found.compression_seconds / found.wall_seconds,
        }


def _seconds(call: Any) -> float:
    """Median of one call, repeated as often as a stable median takes."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=0.5).median)
