"""A training run from its configuration to its summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from compressm.data import DataSplits, Loaders, load, loaders
from compressm.errors import CheckpointError, OutputError
from compressm.events import EventLog
from compressm.integrations.lightning import CompressionCallback
from compressm.train.callbacks import BestModel, RunCheckpoint, Save, SessionLog
from compressm.train.clock import StepClock
from compressm.train.compression import compression_of, spectra_recorder
from compressm.train.config import RunConfig
from compressm.train.energy import Joules, counted
from compressm.train.folder import RunFolder
from compressm.train.memory import keep_freed_memory
from compressm.train.model_files import ModelCard, load_run_model, save_model
from compressm.train.module import SequenceModule
from compressm.train.pace import Pace
from compressm.train.progress import Bar, Progress
from compressm.train.stream import TrainStream
from compressm.train.summary import Size, Summary
from compressm.train.trainer import cpu_threads, make_loggers, make_trainer, quiet_lightning

Say = Callable[[str], None]


def train(
    config: RunConfig,
    folder: str | Path | None = None,
    *,
    say: Say = lambda line: None,
    progress_bar: bool = False,
    energy: bool = False,
) -> Summary:
    """Train from scratch into a new run folder.

    glibc is told to keep the memory that a step frees, for the rest of the process.

    Args:
        config: the settings, see `load_recipe`.
        folder: of the run; by default runs/NAME.
        say: takes lines for the user.
        progress_bar: draw Lightning's progress bar.
        energy: count joules, where codecarbon is installed; it takes seconds to begin.

    Raises:
        ConfigError: the folder is there already or cannot be written, or settings and data do not
            fit together.
        OutputError: the disk is full.
        DataError: the data set is missing or damaged.
    """
    began = time.perf_counter()
    chosen = RunFolder.choose(config.name, folder)
    return _run(config, chosen, began, None, say, progress_bar, energy, new=True)


def resume(
    folder: str | Path,
    *,
    say: Say = lambda line: None,
    progress_bar: bool = False,
    energy: bool = False,
) -> Summary:
    """Continue a run that was killed, from its last checkpoint, as if it had not been.

    On a CPU the weights become those of the uninterrupted run, bit for bit.

    Raises:
        CheckpointError: the folder is not that of a run, or its checkpoint is damaged or of another
            model than its config.yaml, or the run is finished.
        ConfigError: its config.yaml is damaged, the folder cannot be written, or another process
            is at work on the run.
        OutputError: the disk is full.
    """
    began = time.perf_counter()
    run, config = RunFolder.open(folder)
    with run.held():
        if run.summary.is_file():
            raise CheckpointError(f"the run {folder} is finished: its results are in {run.summary}")
        checkpoint = run.checkpoint if run.rewind() else None
        return _run(config, run, began, checkpoint, say, progress_bar, energy)


def _run(
    config: RunConfig,
    folder: RunFolder,
    began: float,
    checkpoint: Path | None,
    say: Say,
    progress_bar: bool,
    energy: bool,
    *,
    new: bool = False,
) -> Summary:
    keep_freed_memory()
    with ExitStack() as stack:
        stack.enter_context(cpu_threads(config.trainer.threads))
        stack.enter_context(quiet_lightning())
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
        best = BestModel(module.model, save, splits.task.monitor)
        last = RunCheckpoint(
            folder.checkpoint,
            save,
            compression,
            every=config.trainer.checkpoint_interval,
            val_every=config.trainer.validation_interval,
        )
        running = Joules()
        pace = Pace(clock, compression, every=config.trainer.log_interval, joules=running.so_far)
        recorder = spectra_recorder(config, folder, splits)
        cutting: list[pl.Callback] = [compression] if compression else []
        looking: list[pl.Callback] = [recorder] if recorder else []
        policy = config.compress.build_policy() if config.compress else None
        told: list[pl.Callback] = [pace, SessionLog(folder.sessions, policy)]
        told += [Bar(clock)] if progress_bar else []
        trainer = make_trainer(
            config,
            # The clock first, so that it stops before a cut.
            callbacks=[
                clock,
                *cutting,
                *looking,
                best,
                last,
                *told,
                Progress(compression, clock, say),
            ],
            logger=make_loggers(config, folder),
            enable_progress_bar=progress_bar,
        )
        stream = TrainStream(batches.train, config.trainer.steps)
        # Only now, so that a run which cannot start leaves nothing behind.
        if new:
            stack.enter_context(folder.held(config))
        stack.enter_context(_resumable(folder, say))
        counts: dict[str, Any] = {}
        with counted(counts, running) if energy else nullcontext():
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
            energy=pace.whole_run(counts),
            device=trainer.strategy.root_device,
        )
        folder.write_summary(summary.to_dict())
    return summary


@contextmanager
def _resumable(folder: RunFolder, say: Say) -> Iterator[None]:
    """Say how to go on where a run was stopped from outside, or has no room to write."""
    advice = f"continue with: compressm train --resume {folder.path}"
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes the second of the first
        say(f"interrupted; {advice}")
        raise SystemExit(143 if isinstance(stop, SIGTERMException) else 130) from stop
    except OutputError as error:
        raise OutputError(f"{error}; when that is mended, {advice}") from error


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
    settings = compression_of(config, splits)
    if settings is None:
        return None
    return CompressionCallback(**settings, log=folder.events, target="model")


def _evaluate(config: RunConfig, module: SequenceModule, batches: Loaders) -> dict[str, float]:
    """The figures of the task on validation and test, of the model as it is."""
    trainer = make_trainer(
        config, logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    metrics: dict[str, float] = {}
    for run, loader in ((trainer.validate, batches.val), (trainer.test, batches.test)):
        run(module, loader, verbose=False)
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    return metrics
