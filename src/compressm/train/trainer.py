"""Lightning's Trainer as our settings want it, and peace around it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from compressm.storage.state_trees import load_tree, save_tree
from compressm.train.config import RunConfig
from compressm.train.folder import RunFolder
from compressm.train.logger import JsonlLogger

_PRECISION: dict[str, Literal["32-true", "bf16-mixed", "64-true"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "64": "64-true",
}


class CheckpointFile(CheckpointIO):
    """Lightning's checkpoints in a file without pickle, whole or not there, with a checksum."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Replace the file."""
        save_tree(path, checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """What `save_checkpoint` was given, on the CPU."""
        checkpoint: dict[str, Any] = load_tree(path)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file."""
        Path(path).unlink(missing_ok=True)


def make_trainer(config: RunConfig, **options: Any) -> pl.Trainer:
    """A Trainer that counts steps, not epochs; `options` go to it as they are."""
    settings = config.trainer
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=1 if settings.device is None else [settings.device],
        precision=_PRECISION[settings.precision],
        max_steps=settings.steps,
        max_epochs=-1,
        val_check_interval=settings.validation_interval,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_interval,
        gradient_clip_val=config.optim.clip,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[CheckpointFile()],
        **options,
    )


def make_loggers(config: RunConfig, folder: RunFolder) -> list[Logger]:
    """metrics.jsonl, and TensorBoard and CSV on request."""
    found: list[Logger] = [JsonlLogger(folder.metrics)]
    if config.trainer.tensorboard:
        found.append(TensorBoardLogger(folder.path, name="tensorboard", version=""))
    if config.trainer.csv:  # a resumed run begins a further version_N
        found.append(CSVLogger(folder.path, name="csv"))
    return found


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use so many threads of the CPU inside (None: as many as before)."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leave out Lightning's advertisements and its advice to use many loading processes."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        # The data are tensors in memory: a worker process would only copy them.
        warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
        # Lightning 2.6 on torch 2.13 asks in a deprecated way.
        warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*", category=FutureWarning)
        for name in names:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
