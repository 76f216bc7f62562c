"""`CompressionCallback`: a `Compressor` that a Lightning `Trainer` steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compressm.calibration import calibration_of
from compressm.compressor import Compressor
from compressm.errors import InputError, MissingExtraError
from compressm.events import Event
from compressm.guard import Guard

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise MissingExtraError("lightning", "train") from error


class CompressionCallback(pl.Callback):
    """Cuts state dimensions on a schedule of optimizer steps, in the model and its optimizers.

        trainer = Trainer(callbacks=[CompressionCallback(
            policy=EnergyTolerance(0.1), schedule=Schedule.spaced(cuts=4, stop=1_000))])

    Its state travels with Lightning's checkpoints; a model built at full size takes the smaller
    states of one.

    Args:
        target: attribute path of the module to compress, such as "model"; by default the
            LightningModule itself. `data` goes through this module.
        guard: as for `compressm.Compressor`; the trainer's LR schedulers become companions.
        log: where events go: a path (JSONL) or a callable.
        compression: further arguments of `compressm.Compressor`: policy, schedule, data, …

    Attributes:
        compressor: the compressor, from the start of training on.
    """

    def __init__(
        self,
        *,
        target: str | None = None,
        guard: Guard | None = None,
        log: str | Path | Callable[[Event], None] | None = None,
        **compression: Any,
    ) -> None:
        self.compressor: Compressor | None = None
        self._target, self._guard, self._log = target, guard, log
        self._restored: dict[str, Any] | None = None
        how = (compression.pop(name, None) for name in ("data", "forward", "loss"))
        self._settings = {**compression, "data": calibration_of(*how)}

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return [] if self.compressor is None else self.compressor.events

    def check(self, pl_module: pl.LightningModule) -> None:
        """Refuse before training what `on_train_start` would refuse."""
        self._compressor(pl_module, None, guard=None, log=None)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before a checkpoint is restored: from here on the model takes smaller states."""
        # A module that builds itself in `configure_model` has nothing yet.
        if stage == "fit" and next(pl_module.parameters(), None) is not None:
            self.check(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the model and the optimizers, which by now are restored if there was a checkpoint.

        Raises:
            InputError: several devices under a strategy that is neither DDP nor FSDP2, a `target`
                that the module does not have, or nothing in the model that can be compressed.
        """
        guard, schedulers = self._guard, [c.scheduler for c in trainer.lr_scheduler_configs]
        if guard is not None:
            guard = replace(guard, companions=[*guard.companions, *schedulers])
        self.compressor = self._compressor(
            pl_module,
            trainer.optimizers,
            guard=guard,
            log=self._log,
            wrapper=_wrapper(trainer, pl_module),
        )
        if self._restored is not None:
            self.compressor.load_state_dict(self._restored)

    def _compressor(self, module: pl.LightningModule, optimizers: Any, **more: Any) -> Compressor:
        try:
            model = attrgetter(self._target)(module) if self._target else module
        except AttributeError as error:
            raise InputError(f"target: {type(module).__name__} has no {self._target}") from error
        return Compressor(model, optimizers, **more, **self._settings)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Cut if the optimizer step that was just made is due."""
        if self.compressor is not None:
            self.compressor.step(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.compressor is None else {"compressor": self.compressor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict.get("compressor")


def _wrapper(trainer: pl.Trainer, module: pl.LightningModule) -> nn.Module | None:
    """The DDP that the strategy has put around the module; None where there is nothing around."""
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel):
        return model
    if model is not module and trainer.world_size > 1:
        raise InputError(
            "CompressionCallback: several devices need strategy='ddp' or ModelParallelStrategy "
            f"(fully_shard), got {type(trainer.strategy).__name__}"
        )
    return None
