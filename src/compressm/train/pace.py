"""What a run takes while it goes on: wall-clock, step time, memory, joules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from compressm.integrations.lightning import CompressionCallback
from compressm.train.clock import StepClock

_KIB = 1024


class Pace(pl.Callback):
    """Tells all loggers, at every logged step, every event and every validation:

    `run/seconds` wall-clock of the run, without the time between a kill and its resumption;
    `run/step_ms` median milliseconds of a step since the last cut, and at a cut of those before it;
    `run/training_bytes` parameters, their gradients and optimizer states; `run/memory_bytes` the
    process on a CPU, tensors of the device elsewhere; `run/joules` where they are counted.
    What is not known is left out.

    Args:
        clock: of the run's steps.
        compression: the callback that makes the cuts, which comes before this one.
        every: steps between lines.
        joules: those of this process so far.
    """

    def __init__(
        self,
        clock: StepClock,
        compression: CompressionCallback | None,
        *,
        every: int,
        joules: Callable[[], float | None],
    ) -> None:
        self.clock = clock
        self.compression = compression
        self.every = every
        self._joules = joules
        self._joules_before = 0.0
        self._events = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._events = self._event_count()
        self._tell(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        events = self._event_count()
        if events != self._events or trainer.global_step % self.every == 0:
            self._tell(trainer)
        self._events = events

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._tell(trainer)

    def _event_count(self) -> int:
        return len(self.compression.events) if self.compression else 0

    def _tell(self, trainer: pl.Trainer) -> None:
        device = trainer.strategy.root_device
        figures = {
            "seconds": self.clock.total_seconds(),
            "step_ms": self.clock.last_ms,
            "training_bytes": training_bytes(trainer),
            "memory_bytes": memory_bytes(device),
            "joules": self.joules(),
        }
        known = {f"run/{name}": float(v) for name, v in figures.items() if v is not None}
        for logger in trainer.loggers:
            # Loggers count steps from 0, see `JsonlLogger`.
            logger.log_metrics(known, trainer.global_step - 1)

    def joules(self) -> float | None:
        """Of the whole run so far, its interrupted parts included."""
        here = self._joules()
        return None if here is None else self._joules_before + here

    def whole_run(self, energy: Mapping[str, Any]) -> dict[str, Any]:
        """What `counted` found, with the joules of interrupted parts; empty where it did not."""
        if not energy:
            return {}
        return {**energy, "joules": self._joules_before + energy["joules"]}

    def state_dict(self) -> dict[str, Any]:
        return {"joules": self.joules() or self._joules_before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._joules_before = state_dict["joules"]


def training_bytes(trainer: pl.Trainer) -> int:
    """Parameters of the module, as many gradients, and the states of its optimizers."""
    parameters = [p for p in trainer.lightning_module.parameters() if p.requires_grad]
    states = [
        value
        for optimizer in trainer.optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    return 2 * sum(p.nbytes for p in parameters) + sum(value.nbytes for value in states)


def memory_bytes(device: torch.device) -> int | None:
    """Tensors of an accelerator; on a CPU the process, where the system says how large it is."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and device.type == accelerator.type:
        allocated = getattr(torch.get_device_module(device), "memory_allocated", None)
        return None if allocated is None else int(allocated())
    return _resident_bytes()


def _resident_bytes() -> int | None:
    status = Path("/proc/self/status")
    if sys.platform != "linux" or not status.is_file():
        return None
    for line in status.read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * _KIB
    return None
