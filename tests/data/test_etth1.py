"""Forecasts, from a made-up file of the same format."""

import pytest
import torch

from compressm.data import DataConfig, load, loaders
from compressm.data.sets.etth1 import CHANNELS, FILE
from compressm.data.signals import forecasts
from compressm.errors import ConfigError, DataError

from .conftest import hours

HOURS = 8640 + 2880 + 2880


@pytest.fixture(scope="module")
def made():
    return hours()


@pytest.fixture
def folder(tmp_path, made):
    made.to_csv(tmp_path / FILE, index=False)
    return tmp_path


def etth1(folder, **changes):
    return load(DataConfig(name="etth1", data_dir=str(folder), **changes))


def batch_of(part, rows=slice(None)):
    return part[torch.arange(len(part))[rows]]


@pytest.mark.parametrize("channels", ["all", "OT"])
def test_windows_and_what_follows_them(folder, made, channels):
    options = {"window": 5, "horizon": 3, "channels": channels}
    splits = etth1(folder, options=options)
    values = made[list(CHANNELS)].to_numpy()
    trained = values[:8640]
    values = (values - trained.mean(0)) / trained.std(0)
    if channels == "OT":
        values = values[:, 6:]
    ends = {"train": 8640, "val": 11520, "test": HOURS}
    for name, first in (("train", 0), ("val", 8640 - 5), ("test", 11520 - 5)):
        part = getattr(splits, name)
        assert len(part) == ends[name] - first - 5 - 3 + 1
        batch = batch_of(part, [0, -1])
        for row, start in ((0, first), (1, ends[name] - 8)):
            seen, told = values[start : start + 5], values[start + 5 : start + 8]
            torch.testing.assert_close(batch["inputs"][row], torch.tensor(seen).float())
            torch.testing.assert_close(batch["labels"][row], torch.tensor(told).float().flatten())
    width = values.shape[1]
    task = splits.task
    assert (task.kind, task.input_size, task.classes, task.length) == (
        "forecast",
        width,
        3 * width,
        5,
    )
    assert (task.monitor, task.loss_unit, task.per_step) == ("val/loss", "mse", False)


def test_channels_apart_are_the_same_windows(folder):
    sizes = {"window": 5, "horizon": 3, "centre": "last"}
    together, apart = (
        etth1(folder, options={**sizes, "channels": channels}) for channels in ("all", "each")
    )
    assert (apart.task.input_size, apart.task.classes) == (1, 3)
    count = len(together.test)
    assert len(apart.test) == 7 * count
    for row in (0, 11, count - 1):
        whole = together.test[row]
        single = apart.test[[row + count * channel for channel in range(7)]]
        assert torch.equal(single["inputs"][..., 0].T, whole["inputs"])
        assert torch.equal(single["labels"].T.flatten(), whole["labels"])


def test_nothing_of_validation_and_test_is_in_the_statistics(folder, made):
    other = made.copy()
    other.loc[8640:, list(CHANNELS)] = 0.0
    before = batch_of(etth1(folder).train, slice(50))
    other.to_csv(folder / FILE, index=False)
    after = batch_of(etth1(folder).train, slice(50))
    assert torch.equal(before["inputs"], after["inputs"])
    assert torch.equal(before["labels"], after["labels"])


def test_centred_forecasts_have_the_same_errors(folder):
    plain, centred = (
        batch_of(etth1(folder, options={"horizon": 4, "centre": centre}).val, slice(9))
        for centre in ("none", "last")
    )
    last = plain["inputs"][:, -1:]
    torch.testing.assert_close(centred["inputs"], plain["inputs"] - last)
    assert (centred["inputs"][:, -1] == 0).all()
    # The level comes back to every predicted hour, so a difference of predictions does not change.
    torch.testing.assert_close(
        centred["labels"] + last.expand(-1, 4, -1).flatten(1), plain["labels"]
    )


def test_parts_can_be_limited(folder):
    splits = etth1(folder, val_size=30, train_size=40, test_size=20)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (40, 30, 20)
    assert not torch.equal(splits.train.index, etth1(folder, train_size=40, seed=1).train.index)
    batch = next(iter(loaders(splits, batch_size=8).train))
    assert batch["inputs"].shape == (8, 96, 7)
    assert batch["labels"].shape == (8, 96 * 7)
    assert "mask" not in batch


def test_a_window_longer_than_what_came_before_starts_later():
    series = torch.arange(12.0)[:, None]
    data = forecasts(series, 3, 12, window=5, horizon=2, centre=False)
    assert data[[0]]["inputs"].flatten().tolist() == [0, 1, 2, 3, 4]
    assert data[[len(data) - 1]]["labels"].flatten().tolist() == [10, 11]
    assert len(data) == 12 - 5 - 2 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="LUFL"), r"cannot read .*ETTh1.csv.*LUFL.*download https"),
        (lambda t: t.head(100), "has 100 rows, expected 14400"),
        (lambda t: t.replace({"OT": {t["OT"][7]: "?"}}), r"cannot read .*download https"),
        (lambda t: t.assign(OT=t["OT"].mask(t.index == 7)), "row 7: a value is missing"),
    ],
)
def test_other_files_are_refused(folder, made, change, message):
    change(made.astype(object)).to_csv(folder / FILE, index=False)
    with pytest.raises(DataError, match=message) as caught:
        etth1(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_impossible_sizes(folder):
    with pytest.raises(ConfigError, match=r"horizon: got 2881, .* at most 2880 hours"):
        etth1(folder, options={"horizon": 2881})
    with pytest.raises(ConfigError, match="at most 0 hours"):
        etth1(folder, options={"window": 8640})
    (folder / FILE).unlink()
    with pytest.raises(DataError, match=r"there is no file .*ETTh1.csv; download https"):
        etth1(folder)
    with pytest.raises(DataError, match="give its folder as data_dir or in COMPRESSM_DATA"):
        load(DataConfig(name="etth1"))
