"""`CompressionCallback`: a `Compressor` that a Lightning `Trainer` steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

from compressm.calibration import Calibration
from compressm.compressor import Compressor
from compressm.errors import InputError, MissingExtraError
from compressm.events import Event
from compressm.ranks import Policy
from compressm.schedule import Schedule

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise MissingExtraError("lightning", "train") from error


class CompressionCallback(pl.Callback):
    """Cuts state dimensions on a schedule of optimizer steps, in the model and its optimizers.

        trainer = Trainer(callbacks=[CompressionCallback(
            policy=EnergyTolerance(0.1), schedule=Schedule.spaced(cuts=4, stop=1_000))])

    Its state travels with Lightning's checkpoints. Before a checkpoint with smaller states is
    loaded the model must be able to take them: the layers of `compressm.nn` resize themselves.

    Args:
        policy, schedule, method, data, transport, select, seed, log: see `compressm.Compressor`.
        target: attribute path of the module to compress, such as "model"; by default the
            LightningModule itself. `data` goes through this module.

    Attributes:
        compressor: the compressor, from the start of training on.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        schedule: Schedule,
        method: str = "auto",
        data: Iterable[Any] | Calibration | None = None,
        transport: str = "project",
        select: Any = "largest",
        seed: int = 0,
        log: str | Path | Callable[[Event], None] | None = None,
        target: str | None = None,
    ) -> None:
        self.compressor: Compressor | None = None
        self._target, self._log = target, log
        self._restored: dict[str, Any] | None = None
        self._settings: dict[str, Any] = {
            "policy": policy,
            "schedule": schedule,
            "method": method,
            "data": data,
            "transport": transport,
            "select": select,
            "seed": seed,
        }

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return [] if self.compressor is None else self.compressor.events

    def check(self, pl_module: pl.LightningModule) -> None:
        """Refuse before training what `on_train_start` would refuse."""
        self._compressor(pl_module, None, log=None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the model and the optimizers, which by now are restored if there was a checkpoint.

        Raises:
            InputError: several devices, a `target` that the module does not have, or nothing
                in the model that can be compressed.
        """
        if trainer.world_size > 1:
            raise InputError(f"CompressionCallback: one device expected, got {trainer.world_size}")
        self.compressor = self._compressor(pl_module, trainer.optimizers, log=self._log)
        if self._restored is not None:
            self.compressor.load_state_dict(self._restored)

    def _compressor(self, module: pl.LightningModule, optimizers: Any, log: Any) -> Compressor:
        try:
            model = attrgetter(self._target)(module) if self._target else module
        except AttributeError as error:
            raise InputError(f"target: {type(module).__name__} has no {self._target}") from error
        return Compressor(model, optimizers, log=log, **self._settings)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Cut if the optimizer step that was just made is due."""
        if self.compressor is not None:
            self.compressor.step(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.compressor is None else {"compressor": self.compressor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict.get("compressor")
