"""The compressor that a recipe describes."""

from __future__ import annotations

from typing import Any

from compressm.calibration import Calibration
from compressm.data import DataSplits
from compressm.data.task import Task
from compressm.engine.joint_fit import JointFit
from compressm.train.build import loss_of
from compressm.train.config import CompressConfig, RunConfig
from compressm.train.folder import RunFolder
from compressm.train.spectra import SpectraRecorder
from compressm.train.stream import calibration_batches


def calibration_of(config: RunConfig, splits: DataSplits, batches: int) -> Calibration:
    """Training batches apart from the stream, with the loss of the task."""
    seen = calibration_batches(
        splits.train, batch_size=config.trainer.batch_size, count=batches, seed=config.seed
    )
    return Calibration(seen, loss=loss_of, max_batches=batches)


def joint_fit_of(task: Task, steps: int) -> JointFit | None:
    """A fit of all cut layers together by what the task predicts; None for no steps."""
    if not steps:
        return None
    return JointFit(steps=steps, compare="values" if task.loss_unit == "mse" else "probabilities")


def compression_of(config: RunConfig, splits: DataSplits) -> dict[str, Any] | None:
    """What a `Compressor`, or a callback around one, is built of; None where nothing is cut."""
    settings, schedule = config.compress, config.build_schedule()
    if settings is None or schedule is None:
        return None
    return {
        "policy": settings.build_policy(),
        "schedule": schedule,
        "uniform": settings.uniform,
        "method": settings.method,
        "data": calibration_of(config, splits, settings.batches),
        "transport": settings.transport,
        "select": settings.select,
        "joint_fit": joint_fit_of(splits.task, settings.joint_fit),
        "seed": config.seed,
    }


def spectra_recorder(
    config: RunConfig, folder: RunFolder, splits: DataSplits
) -> SpectraRecorder | None:
    """Looks at the spectra as the cuts do; None where the recipe does not ask for it."""
    every = config.trainer.spectra_every
    if every is None:
        return None
    method, batches = "auto", CompressConfig.batches
    if config.compress is not None:
        method, batches = config.compress.method, config.compress.batches
    data = calibration_of(config, splits, batches)
    return SpectraRecorder(folder.spectra, every=every, method=method, data=data)
