"""The spectra of all layers over a run, also between and after its cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from compressm.calibration import Calibration
from compressm.once import measure
from compressm.storage.files import append_record
from compressm.train.module import SequenceModule


class SpectraRecorder(pl.Callback):
    """Measures every few steps, changes nothing, and appends one line to a file:

    {"step": …, "method": …, "sites": {LAYER: {"states": …, "values": [σ_1, …]}}}

    Args:
        path: of the file.
        every: steps between measurements; there is one before the first step too.
        method: see `compressm.measure`.
        data: for methods that look at data.
    """

    def __init__(
        self, path: Path, *, every: int, method: str, data: Calibration | None = None
    ) -> None:
        self.path = path
        self.every = every
        self.method = method
        self.data = data

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self._record(0, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if trainer.global_step % self.every == 0:
            self._record(trainer.global_step, pl_module)

    def _record(self, step: int, module: pl.LightningModule) -> None:
        assert isinstance(module, SequenceModule)
        found = measure(module.model, method=self.method, data=self.data)
        sites = {
            name: {"states": spectrum.state_dim, "values": spectrum.values.tolist()}
            for name, spectrum in found.items()
        }
        append_record(self.path, {"step": step, "method": self.method, "sites": sites})
