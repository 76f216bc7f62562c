"""What a run tells its user while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar

from compressm.headline import headline_of
from compressm.integrations.lightning import CompressionCallback


class Progress(pl.Callback):
    """One line per validation and per cut, through `say`."""

    def __init__(self, compression: CompressionCallback | None, say: Callable[[str], None]) -> None:
        self.compression = compression
        self.say = say
        self._told = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._told = len(self.compression.events) if self.compression else 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        events = self.compression.events if self.compression else []
        for event in events[self._told :]:
            self.say(str(event))
        self._told = len(events)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parts = [f"train/loss {values['train/loss']:.4f}"] if "train/loss" in values else []
        if told := headline_of(values, "val"):
            parts.append(f"val/{told.sentence(values, 'val')}")
        self.say(f"step {trainer.global_step} of {trainer.max_steps}: " + ", ".join(parts))


class Bar(RichProgressBar):
    """Lightning's bar for a run that is one long epoch."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
        """The training loss alone: validation has a line of its own."""
        shown = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in shown.items() if name == "train/loss"}
