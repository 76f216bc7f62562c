"""A training run from its configuration to its summary."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from compressm.calibration import Calibration
from compressm.data import DataSplits, Loaders, load, loaders
from compressm.errors import CheckpointError
from compressm.events import EventLog
from compressm.integrations.lightning import CompressionCallback
from compressm.train.build import loss_of
from compressm.train.callbacks import BestModel, RunCheckpoint, Save
from compressm.train.clock import StepClock
from compressm.train.config import RunConfig
from compressm.train.folder import RunFolder
from compressm.train.logger import JsonlLogger
from compressm.train.model_files import ModelCard, load_run_model, save_model
from compressm.train.module import SequenceModule
from compressm.train.progress import Bar, Progress
from compressm.train.stream import TrainStream, calibration_batches
from compressm.train.summary import Size, Summary

_PRECISION: dict[str, Literal["32-true", "bf16-mixed", "64-true"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "64": "64-true",
}
Say = Callable[[str], None]


def train(
    config: RunConfig,
    folder: str | Path | None = None,
    *,
    say: Say = lambda line: None,
    progress_bar: bool = False,
) -> Summary:
    """Train from scratch into a new run folder.

    Args:
        config: the settings, see `load_recipe`.
        folder: of the run; by default runs/NAME.
        say: takes lines for the user.
        progress_bar: draw Lightning's progress bar.

    Raises:
        ConfigError: the folder is there already, or settings and data do not fit together.
        DataError: the data set is missing or damaged.
    """
    began = time.perf_counter()
    chosen = RunFolder.choose(config.name, folder)
    return _run(config, chosen, began, None, say, progress_bar)


def resume(
    folder: str | Path, *, say: Say = lambda line: None, progress_bar: bool = False
) -> Summary:
    """Continue a run that was killed, from its last checkpoint, as if it had not been.

    On a CPU the weights become those of the uninterrupted run, bit for bit.

    Raises:
        CheckpointError: the folder is not that of a run, or its checkpoint is damaged, or the
            run is finished.
    """
    began = time.perf_counter()
    run, config = RunFolder.open(folder)
    if run.summary.is_file():
        raise CheckpointError(f"the run {folder} is finished: its results are in {run.summary}")
    checkpoint = run.checkpoint if run.rewind() else None
    return _run(config, run, began, checkpoint, say, progress_bar)


def _run(
    config: RunConfig,
    folder: RunFolder,
    began: float,
    checkpoint: Path | None,
    say: Say,
    progress_bar: bool,
) -> Summary:
    with _threads(config.trainer.threads), _quiet_lightning():
        torch.manual_seed(config.seed)
        splits = load(config.data)
        module = SequenceModule(config, splits.task)
        batches = loaders(
            splits,
            batch_size=config.trainer.batch_size,
            eval_batch_size=config.trainer.eval_batch_size,
            seed=config.seed,
            num_workers=config.trainer.workers,
        )
        start = Size.of(module.model)
        say(f"{config.name}: {len(splits.train)} training examples, {start}, in {folder.path}")

        def save(which: str, step: int, metrics: dict[str, float]) -> None:
            card = ModelCard(config=config, task=splits.task, step=step, metrics=metrics)
            save_model(folder.model(which), module.model, card)

        compression = _compression(config, folder, splits)
        if compression is not None:
            compression.check(module)
        clock = StepClock(compression, began)
        monitor = "val/loss" if splits.task.kind == "language-model" else "val/accuracy"
        best = BestModel(module.model, save, monitor)
        last = RunCheckpoint(
            folder.checkpoint,
            save,
            compression,
            every=config.trainer.checkpoint_interval,
            val_every=config.trainer.validation_interval,
        )
        cutting: list[pl.Callback] = [compression] if compression else []
        bar: list[pl.Callback] = [Bar()] if progress_bar else []
        trainer = _trainer(
            config,
            # The clock first, so that it stops before a cut.
            callbacks=[clock, *cutting, best, last, *bar, Progress(compression, say)],
            logger=_loggers(config, folder),
            enable_progress_bar=progress_bar,
        )
        stream = TrainStream(batches.train, config.trainer.steps)
        # Only now, so that a run which cannot start leaves nothing behind.
        if checkpoint is None:
            folder.create(config)
        trainer.fit(module, stream, batches.val, ckpt_path=checkpoint, weights_only=True)
        end = Size.of(module.model)
        figures = _evaluate_both(config, module, batches, best, save, folder)
        summary = Summary.collect(
            config,
            start=start,
            end=end,
            best=figures["best"],
            last=figures["last"],
            events=EventLog.read(folder.events) if folder.events.is_file() else [],
            clock=clock,
            device=trainer.strategy.root_device,
        )
    folder.write_summary(summary.to_dict())
    return summary


def _evaluate_both(
    config: RunConfig,
    module: SequenceModule,
    batches: Loaders,
    best: BestModel,
    save: Save,
    folder: RunFolder,
) -> dict[str, dict[str, float]]:
    """Step, validation and test figures of the last and of the best model; saves the last."""
    steps = config.trainer.steps
    last = _evaluate(config, module, batches)
    save("last", steps, last)
    best.consider(steps, last)  # the last step need not be one that was validated
    if best.step in (None, steps):
        figures = last
    else:
        model, _ = load_run_model(folder.model("best"))
        module.model.load_state_dict(model.state_dict())
        figures = _evaluate(config, module, batches)
    return {"best": {"step": best.step or steps, **figures}, "last": {"step": steps, **last}}


def _compression(
    config: RunConfig, folder: RunFolder, splits: DataSplits
) -> CompressionCallback | None:
    settings, schedule = config.compress, config.build_schedule()
    if settings is None or schedule is None:
        return None
    seen = calibration_batches(
        splits.train,
        batch_size=config.trainer.batch_size,
        count=settings.batches,
        seed=config.seed,
    )
    return CompressionCallback(
        policy=settings.build_policy(),
        schedule=schedule,
        method=settings.method,
        data=Calibration(seen, loss=loss_of, max_batches=settings.batches),
        transport=settings.transport,
        select=settings.select,
        seed=config.seed,
        log=folder.events,
        target="model",
    )


def _trainer(config: RunConfig, **options: Any) -> pl.Trainer:
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
        **options,
    )


def _evaluate(config: RunConfig, module: SequenceModule, batches: Loaders) -> dict[str, float]:
    """Loss and accuracy on validation and test of the model as it is."""
    trainer = _trainer(config, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    metrics: dict[str, float] = {}
    for run, loader in ((trainer.validate, batches.val), (trainer.test, batches.test)):
        run(module, loader, verbose=False)
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    return metrics


def _loggers(config: RunConfig, folder: RunFolder) -> list[Logger]:
    found: list[Logger] = [JsonlLogger(folder.metrics)]
    if config.trainer.tensorboard:
        found.append(TensorBoardLogger(folder.path, name="tensorboard", version=""))
    return found


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
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
