"""What a run tells its user while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar

from compressm.headline import headline_of
from compressm.integrations.lightning import CompressionCallback
from compressm.train.clock import StepClock
from compressm.train.module import SequenceModule
from compressm.train.sizes import states_of

_MINUTE, _HOUR = 60, 3600
# Layers that a line names one by one.
_NAMED = 4


class Progress(pl.Callback):
    """One line per validation and per cut, through `say`; with what a step takes, and is left."""

    def __init__(
        self,
        compression: CompressionCallback | None,
        clock: StepClock,
        say: Callable[[str], None],
    ) -> None:
        self.compression = compression
        self.clock = clock
        self.say = say
        self._told = 0
        self._since = (0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._told = len(self.compression.events) if self.compression else 0
        self._since = (trainer.global_step, time.perf_counter())

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
        parts += pace(self.clock)
        if left := self._left(trainer):
            parts.append(f"{duration(left)} left")
        self.say(f"step {trainer.global_step} of {trainer.max_steps}: " + ", ".join(parts))

    def _left(self, trainer: pl.Trainer) -> float:
        """Seconds, if all goes on as since the last validation, which is in it, as cuts are."""
        step, now = trainer.global_step, time.perf_counter()
        (last, then), self._since = self._since, (step, now)
        steps = max(step - last, 1)
        return (now - then) / steps * (trainer.max_steps - step)


class Bar(RichProgressBar):
    """Lightning's bar for a run that is one long epoch; it has the time left, and we the states."""

    def __init__(self, clock: StepClock) -> None:
        super().__init__(refresh_rate=10)
        self.clock = clock

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
        """Training loss, states and step time: validation has a line of its own."""
        shown = super().get_metrics(trainer, pl_module)
        kept = {name: value for name, value in shown.items() if name == "train/loss"}
        assert isinstance(pl_module, SequenceModule)
        kept["states"] = states_phrase(states_of(pl_module.model))
        if self.clock.last_ms is not None:
            kept["step"] = f"{self.clock.last_ms:.1f} ms"
        return kept


def pace(clock: StepClock) -> list[str]:
    """The step time as a phrase, where it is known."""
    return [] if clock.last_ms is None else [f"{clock.last_ms:.1f} ms a step"]


def states_phrase(states: dict[str, int]) -> str:
    """ "64, 32"; of many layers "12 … 64"."""
    numbers = list(states.values())
    if len(numbers) <= _NAMED:
        return ", ".join(map(str, numbers))
    low, high = min(numbers), max(numbers)
    return f"{low} … {high}" if low != high else f"{len(numbers)} × {low}"


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    hours, rest = divmod(round(seconds / _MINUTE), _MINUTE)
    return f"{hours} h {rest} min"
