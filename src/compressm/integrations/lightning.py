"""`CompressionCallback`: a `Compressor` that a Lightning `Trainer` steps."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compressm.checkpoints import watch_loads
from compressm.compressor import Compressor
from compressm.errors import InputError, MissingExtraError
from compressm.events import Event
from compressm.families import sites_in
from compressm.integrations.deferred import DeferredCompressor
from compressm.integrations.scalars import PREFIX, scalars, write_histograms

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise MissingExtraError("lightning", "train") from error

from compressm.integrations.lightning_averages import (
    averages,
    averages_of,
    before_averages,
    refuse_sharded,
)
from compressm.integrations.lightning_sharded import resize_before_loading


class CompressionCallback(pl.Callback):
    """Cuts state dimensions on a schedule of optimizer steps, in the model and its optimizers.

        trainer = Trainer(callbacks=[CompressionCallback(
            policy=EnergyTolerance(0.1), schedule=Schedule.spaced(cuts=4, stop=1_000))])

    Steps are counted as `trainer.global_step` counts them: under manual optimisation every step of
    every optimizer. Its state travels with Lightning's checkpoints; a model built at full size
    takes the smaller states of one. A further `fit()` of the same model goes on where the callback
    was, also in another trainer; with another model it starts anew.

    The copies of `EMAWeightAveraging`, `WeightAveraging`, `StochasticWeightAveraging` and any
    `AveragedModel` in a callback or in the module are cut along. Every event goes to all loggers of
    the trainer, as numbers under `compressm/`, and to TensorBoard as histograms of the spectra. The
    progress bar shows the states of all layers together (`compressm/states`).

    A cut that waits for its verdict when the training ends is judged then, see `Compressor.finish`.
    Callbacks that use the model in `on_train_end` belong behind this one.

    Args:
        target: attribute path of the module to compress, such as "model"; by default the
            LightningModule itself. `data` goes through this module.
        compression: all other arguments of `compressm.Compressor` but model, optimizer and wrapper:
            policy, schedule, guard, data, loss, ema, log, … A guard's companions are joined by
            the trainer's LR schedulers and its gradient scaler.

    Raises:
        InputError: an argument that `Compressor` does not have.
    """

    def __init__(self, *, target: str | None = None, **compression: Any) -> None:
        self._deferred = DeferredCompressor(target=target, **compression)
        self._restored: dict[str, Any] | None = None

    @property
    def compressor(self) -> Compressor | None:
        """The compressor, from the start of training on."""
        return self._deferred.compressor

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return self._deferred.events

    def check(self, pl_module: pl.LightningModule) -> None:
        """Refuse before training what `on_train_start` would refuse."""
        self._deferred.check(pl_module)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before a checkpoint is restored: from here on model and averages take smaller states."""
        resize_before_loading(trainer, self.state_key, partial(self._deferred.part_of, pl_module))
        if stage != "fit":
            watch_loads(pl_module)
            return
        refuse_sharded(trainer)
        if type(pl_module).configure_model is pl.LightningModule.configure_model:
            # Of averages inside the module the error that names them comes first.
            averages_of(trainer, pl_module, self._deferred.part_of(pl_module))
            self.check(pl_module)
        else:  # it builds itself after this, and then loads
            watch_loads(pl_module)
        for _, copy in averages(trainer, pl_module):
            watch_loads(copy)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the model and the optimizers, which by now are restored if there was a checkpoint.

        Raises:
            InputError: several devices under a strategy that is neither DDP nor FSDP2, a `target`
                that the module does not have, or nothing in the model that can be compressed.
        """
        before_averages(trainer, self)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        restored, self._restored = self._restored, None
        self._deferred.start(
            pl_module,
            trainer.optimizers,
            [
                *(config.scheduler for config in trainer.lr_scheduler_configs),
                *([] if scaler is None else [scaler]),
            ],
            count=trainer.global_step,
            restored=restored,
            ema=averages_of(trainer, pl_module, self._deferred.part_of(pl_module)),
            wrapper=_wrapper(trainer, pl_module),
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Cut if the optimizer step that was just made is due."""
        event = self._deferred.step(trainer.global_step)
        if event is not None or batch_idx == 0:  # an epoch begins with an empty bar
            sites = sites_in(self._deferred.part_of(pl_module)).values()
            states = float(sum(site.state_dim for site in sites))
            pl_module.log(f"{PREFIX}states", states, prog_bar=True, logger=False)
        self._tell(trainer, event)
        if _is_last_batch(trainer):  # before it is validated and saved
            self._tell(trainer, self._deferred.finish())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge a cut whose recovery steps reach beyond the end, which may come early."""
        self._tell(trainer, self._deferred.finish())

    def _tell(self, trainer: pl.Trainer, event: Event | None) -> None:
        """Give an event to all loggers."""
        if event is None:
            return
        # The axis on which Lightning and its own callbacks log this batch.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        for logger in trainer.loggers:
            logger.log_metrics(scalars(event), step)
            write_histograms(getattr(logger, "experiment", None), event, step)

    def state_dict(self) -> dict[str, Any]:
        return self._deferred.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The model is that of the checkpoint from now on, and so is the compressor."""
        self._restored = dict((checkpoint.get("callbacks") or {}).get(self.state_key) or {})
        if trainer.state.fn != "fit":  # the count of steps is not restored
            self._restored.pop("count", None)


def _is_last_batch(trainer: pl.Trainer) -> bool:
    """Whether the training ends here as planned; early stopping is another way."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    epochs = trainer.max_epochs
    return trainer.is_last_batch and epochs is not None and 0 <= epochs <= trainer.current_epoch + 1


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
