"""Best model, checkpoints and sessions of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import getdoc
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from compressm.integrations.lightning import CompressionCallback
from compressm.policies.base import Policy
from compressm.storage.files import append_record
from compressm.train.clock import count_cuts
from compressm.train.provenance import provenance

# save(which, step, metrics) writes the model of the run to the file "best" or "last".
Save = Callable[[str, int, dict[str, float]], None]


class BestModel(pl.Callback):
    """Keeps the best model by validation, among models of one size.

    A model whose parameters have other shapes than those of the best so far (there was a cut)
    starts the search anew, so in the end the best is one of those after the last cut.

    Args:
        model: the model of the run, which may change its size while it trains.
        save: writes it.
        monitor: "val/accuracy" (the loss decides between equals) or "val/loss".
    """

    def __init__(self, model: nn.Module, save: Save, monitor: str) -> None:
        self.model = model
        self.save = save
        self.monitor = monitor
        self.step: int | None = None
        self.metrics: dict[str, float] = {}
        self._shapes: list[list[int]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.consider(trainer.global_step, metrics)

    def consider(self, step: int, metrics: dict[str, float]) -> None:
        """Save the model if it is the best of its size so far."""
        metrics = {name: value for name, value in metrics.items() if name.startswith("val/")}
        shapes = [list(parameter.shape) for parameter in self.model.parameters()]
        if shapes == self._shapes and self._score(metrics) <= self._score(self.metrics):
            return
        self.step, self.metrics, self._shapes = step, metrics, shapes
        self.save("best", step, metrics)

    def _score(self, metrics: dict[str, float]) -> tuple[float, ...]:
        loss = -metrics["val/loss"]
        loss = -math.inf if math.isnan(loss) else loss  # no order has a place for it
        return (loss,) if self.monitor == "val/loss" else (metrics["val/accuracy"], loss)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "metrics": self.metrics, "shapes": self._shapes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.metrics = state_dict["step"], state_dict["metrics"]
        self._shapes = state_dict["shapes"]


class SessionLog(pl.Callback):
    """Adds a line to a file when the training begins or is resumed: when, where and with what.

    Args:
        path: of the file.
        policy: that of the cuts, whose rule in words goes into the line; None where nothing is cut.
    """

    def __init__(self, path: Path, policy: Policy | None) -> None:
        self.path = path
        self.policy = policy

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        facts = {
            "step": trainer.global_step,
            **provenance(),
            "device": str(trainer.strategy.root_device),
            "threads": torch.get_num_threads(),
            "policy": (getdoc(self.policy) or "").partition("\n")[0] if self.policy else None,
        }
        append_record(self.path, facts)


class RunCheckpoint(Checkpoint):
    """Saves what a resumed run needs, every few steps, after each cut and at the end.

    Where a validation follows the step it waits for that, so that a resumed run neither misses
    nor repeats a validation. Lightning calls checkpoint callbacks last, after a cut.

    Args:
        path: of the checkpoint, which is replaced each time.
        save: writes the model beside it.
        compression: the callback that makes the cuts.
        every: steps between checkpoints.
        val_every: steps between validations.
    """

    def __init__(
        self,
        path: Path,
        save: Save,
        compression: CompressionCallback | None,
        *,
        every: int,
        val_every: int,
    ) -> None:
        self.path = path
        self.save = save
        self.compression = compression
        self.every = every
        self.val_every = val_every
        self._cuts = 0
        self._waiting = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._cuts = count_cuts(self.compression)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        step, cuts = trainer.global_step, count_cuts(self.compression)
        due = step % self.every == 0 or step == trainer.max_steps or cuts != self._cuts
        self._cuts = cuts
        if due and step % self.val_every == 0:
            self._waiting = True
        elif due:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._waiting:
            self._waiting = False
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self.save("last", trainer.global_step, {})
        trainer.save_checkpoint(self.path)
