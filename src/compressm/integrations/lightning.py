"""`CompressionCallback`: a `Compressor` that a Lightning `Trainer` steps."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compressm.compressor import Compressor
from compressm.errors import InputError, MissingExtraError
from compressm.events import Event
from compressm.integrations.late import LateCompressor

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
        compression: further arguments of `compressm.Compressor`: policy, schedule, data, log, …;
            a guard's companions are joined by the trainer's LR schedulers.
    """

    def __init__(self, *, target: str | None = None, **compression: Any) -> None:
        self._late = LateCompressor(target=target, **compression)
        self._restored: dict[str, Any] | None = None

    @property
    def compressor(self) -> Compressor | None:
        """The compressor, from the start of training on."""
        return self._late.compressor

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return self._late.events

    def check(self, pl_module: pl.LightningModule) -> None:
        """Refuse before training what `on_train_start` would refuse."""
        self._late.check(pl_module)

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
        wrapper = _wrapper(trainer, pl_module)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._late.start(
            pl_module, trainer.optimizers, schedulers, state=self._restored, wrapper=wrapper
        )

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
