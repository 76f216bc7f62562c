"""ETTh1: forecasting the load and the oil temperature of an electricity transformer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from compressm.data.config import DataConfig
from compressm.data.extras import require
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.signals import forecasts
from compressm.data.source import data_file
from compressm.data.splits import limit_test, limit_training, limit_validation, permutation
from compressm.data.task import DataSplits, Task
from compressm.errors import ConfigError, DataError

FILE = "ETTh1.csv"
ADVICE = "download https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv"
CHANNELS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
# Twelve, four and four months of 30 days, as in Informer and all who follow it.
TRAIN, VALIDATION, TEST = 12 * 30 * 24, 4 * 30 * 24, 4 * 30 * 24


@dataclass(frozen=True, kw_only=True)
class Etth1Options:
    """Hours that are seen, hours that are predicted, and channels of both.

    `channels` "all" at once, "each" as an example of its own (which overfits less: arXiv
    2211.14730), or the oil temperature "OT" alone. `centre` "last" takes the last hour that is
    seen from all values, so that a model predicts how they move (NLinear, arXiv 2205.13504); the
    errors are those of the standardised values either way.
    """

    window: int = 96
    horizon: int = 96
    channels: Literal["all", "each", "OT"] = "all"
    centre: Literal["none", "last"] = "none"

    def __post_init__(self) -> None:
        check_at_least("window", self.window, 1)
        check_at_least("horizon", self.horizon, 1)


def read_hours(path: Path) -> Tensor:
    """(14,400, 7) float64, one row an hour, in the order of `CHANNELS`.

    Raises:
        DataError: the file is damaged, or another one.
        MissingExtraError: pandas is not installed.
    """
    pandas = require("pandas", "datasets")
    wanted = TRAIN + VALIDATION + TEST
    try:
        table = pandas.read_csv(path, usecols=list(CHANNELS), nrows=wanted, dtype="float64")
    except (OSError, ValueError) as error:  # pandas' own errors are of the second kind
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot read {path} ({reason}); {ADVICE} again") from error
    values = torch.from_numpy(table[list(CHANNELS)].to_numpy(copy=True))
    if len(values) < wanted:
        raise DataError(f"{path} has {len(values)} rows, expected {wanted}; {ADVICE} again")
    if not values.isfinite().all():
        row = int((~values.isfinite()).any(1).nonzero()[0])
        raise DataError(f"{path}, row {row}: a value is missing; {ADVICE} again")
    return values


@register("etth1", options=Etth1Options)
def etth1(config: DataConfig, options: Etth1Options) -> DataSplits:
    """Hourly load and oil temperature of a transformer, 7 channels, forecast (Zhou et al. 2021).

    The parts follow each other in time: 8,640 hours for training, 2,880 for validation, 2,880 for
    the test. All are standardised per channel with the training hours.
    """
    longest = min(TRAIN - options.window, VALIDATION, TEST)
    if options.horizon > longest:
        raise ConfigError(
            f"data set {config.name!r}: horizon: got {options.horizon}, but with a window of "
            f"{options.window} at most {max(longest, 0)} hours follow; give less of either"
        )
    hours = read_hours(data_file(config, FILE, ADVICE))
    if options.channels == "OT":
        hours = hours[:, [CHANNELS.index("OT")]]
    trained = hours[:TRAIN]
    series = ((hours - trained.mean(0)) / trained.std(0, correction=0)).float()
    ends = (TRAIN, TRAIN + VALIDATION, TRAIN + VALIDATION + TEST)
    train, val, test = (
        forecasts(
            series,
            first,
            end,
            window=options.window,
            horizon=options.horizon,
            centre=options.centre == "last",
            apart=options.channels == "each",
        )
        for first, end in zip((0, *ends[:2]), ends, strict=True)
    )
    channels = 1 if options.channels == "each" else series.shape[1]
    task = Task(
        kind="forecast",
        input="real",
        input_size=channels,
        classes=channels * options.horizon,
        length=options.window,
        padded=False,
    )
    order = permutation(len(train), config.seed)
    return DataSplits(
        task=task,
        train=train.subset(limit_training(order, config).sort().values),
        val=limit_validation(val, config),
        test=limit_test(test, config),
    )
