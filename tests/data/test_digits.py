import pytest
import sklearn.datasets
import torch

from compressm.data import DataConfig, load, loaders
from compressm.data.sets.digit_pairs import draw_pairs
from compressm.errors import ConfigError


def everything(part):
    return part[torch.arange(len(part))]


def images_of(splits):
    return {
        name: {
            tuple(row) for row in everything(getattr(splits, name))["inputs"].flatten(1).tolist()
        }
        for name in ("train", "val", "test")
    }


def test_digits_are_the_pixels_in_row_order():
    splits = load(DataConfig(name="digits", options={"normalise": "unit"}))
    assert splits.task.length == 64
    bunch = sklearn.datasets.load_digits()
    expected = {(tuple(x), int(y)) for x, y in zip(bunch.data / 16, bunch.target, strict=True)}
    found = set()
    for part in (splits.train, splits.val, splits.test):
        batch = everything(part)
        rows = batch["inputs"].squeeze(-1).double().tolist()
        found |= {(tuple(x), y) for x, y in zip(rows, batch["labels"].tolist(), strict=True)}
    assert found == expected


def test_parts_of_digits_are_disjoint_and_complete():
    splits = load(DataConfig(name="digits", seed=5))
    assert len(splits.train) + len(splits.val) + len(splits.test) == 1797
    parts = images_of(splits)
    # Images are all different, so equal images would mean a shared example.
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 1797


def test_digits_are_standardised():
    inputs = everything(load(DataConfig(name="digits")).train)["inputs"]
    assert abs(inputs.mean()) < 0.02
    assert abs(inputs.std() - 1) < 0.02


@pytest.mark.parametrize("size", [4, 8, 12])
def test_other_resolutions(size):
    options = {"image_size": size, "normalise": "unit"}
    splits = load(DataConfig(name="digits", options=options))
    inputs = everything(splits.val)["inputs"]
    assert splits.task.length == size**2
    assert inputs.shape[1:] == (size**2, 1)
    assert inputs.min() >= 0
    assert inputs.max() <= 1
    native = load(DataConfig(name="digits", options={"normalise": "unit"}))
    same_mean = everything(native.val)["inputs"].mean(1)
    torch.testing.assert_close(inputs.mean(1), same_mean, atol=0.05, rtol=0)


def test_pairs_know_whether_their_classes_agree():
    labels = torch.randint(0, 10, (50,))
    pairs, same = draw_pairs(labels, 201, seed=1)
    assert torch.equal(labels[pairs[:, 0]] == labels[pairs[:, 1]], same.bool())
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert same.sum() == 101
    assert len(set(same[:20].tolist())) == 2


def test_no_image_is_in_pairs_of_two_parts():
    splits = load(DataConfig(name="digit_pairs", options={"pairs": 3000, "test_pairs": 500}))
    seen = {}
    for name in ("train", "val", "test"):
        batch = everything(getattr(splits, name))
        rows = torch.cat([batch["inputs_a"], batch["inputs_b"]]).flatten(1)
        seen[name] = {tuple(row) for row in rows.tolist()}
        assert abs(batch["labels"].float().mean() - 0.5) < 0.01
    assert sum(map(len, seen.values())) == len(set.union(*seen.values()))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (2700, 300, 500)


def test_pairs_in_a_batch():
    splits = load(DataConfig(name="digit_pairs", train_size=64, val_size=40))
    assert splits.task.kind == "retrieval"
    batch = next(iter(loaders(splits, batch_size=32).train))
    assert batch["inputs_a"].shape == batch["inputs_b"].shape == (32, 64, 1)
    assert batch["labels"].dtype == torch.int64
    assert (len(splits.train), len(splits.val)) == (64, 40)


def test_too_few_images_for_pairs():
    with pytest.raises(ConfigError, match="too few images"):
        load(DataConfig(name="digit_pairs", val_size=0.995))
