"""A light look at the real sets, where they are."""

import pytest
import torch

from compressm.data import DataConfig, load, loaders

from .conftest import REAL_DATA

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not REAL_DATA, reason="COMPRESSM_DATA is not set"),
]


@pytest.fixture(scope="module")
def _shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _real_folder(monkeypatch, _own_folders, _shared_cache):
    monkeypatch.setenv("COMPRESSM_DATA", str(REAL_DATA))
    monkeypatch.setenv("COMPRESSM_CACHE", str(_shared_cache))


@pytest.mark.parametrize(
    ("name", "train", "val", "test", "length", "channels"),
    [
        ("mnist", 54_000, 6_000, 10_000, 784, 1),
        ("fashion_mnist", 54_000, 6_000, 10_000, 784, 1),
        ("cifar10", 45_000, 5_000, 10_000, 1024, 3),
    ],
)
def test_images(name, train, val, test, length, channels):
    splits = load(DataConfig(name=name))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (train, val, test)
    assert (splits.task.length, splits.task.input_size) == (length, channels)
    batch = next(iter(loaders(splits, batch_size=2000).train))
    assert batch["inputs"].shape == (2000, length, channels)
    assert abs(batch["inputs"].mean()) < 0.05
    assert abs(batch["inputs"].std() - 1) < 0.05
    # All classes, about equally often.
    assert batch["labels"].bincount(minlength=10).min() > 130


def test_first_mnist_test_image_is_a_seven():
    splits = load(DataConfig(name="mnist", options={"normalise": "unit"}))
    example = splits.test[0]
    assert example["labels"] == 7
    stroke = example["inputs"].reshape(28, 28) > 0.5
    assert stroke[7:10, 6:21].float().mean() > 0.5
    assert not stroke[12:, :10].any()


def test_imdb():
    splits = load(DataConfig(name="imdb"))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (22_500, 2_500, 25_000)
    assert splits.task.length == 4096
    lengths = splits.train.lengths().float()
    assert 900 < lengths.median() < 1100
    batch = next(iter(loaders(splits, batch_size=32).train))
    assert batch["mask"].float().mean() > 0.9


def test_tinyshakespeare():
    splits = load(DataConfig(name="char_lm"))
    assert splits.task.classes == 65
    assert len(splits.test) == 111_539 // 256
    text = "".join(splits.vocabulary[token] for token in splits.test[0]["inputs"].tolist())
    assert text.isascii()
    assert "Katharina" in text


def test_gutenberg():
    splits = load(DataConfig(name="char_lm", options={"source": "gutenberg", "length": 512}))
    assert splits.task.classes == 85
    assert len(splits.train) > 40_000
    assert torch.is_tensor(splits.val[0]["inputs"])


def test_fsdd():
    splits = load(DataConfig(name="fsdd", val_size=300))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (2400, 300, 300)
    assert splits.task.length == 8000
    for part in (splits.train, splits.val, splits.test):
        labels = part[torch.arange(len(part))]["labels"]
        assert labels.bincount(minlength=10).tolist() == [len(part) // 10] * 10


def test_etth1():
    splits = load(DataConfig(name="etth1"))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8449, 2785, 2785)
    batch = splits.test[torch.arange(len(splits.test))]
    held = batch["inputs"][:, -1:].expand(-1, 96, -1).flatten(1)
    # The last value, held: 1.295 in the table of DLinear (arXiv 2205.13504).
    assert abs(float((batch["labels"] - held).square().mean()) - 1.295) < 0.002
