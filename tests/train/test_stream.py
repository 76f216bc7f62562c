"""The stream of training batches."""

import itertools

import pytest
import torch

from compressm.data import DataConfig, load, loaders
from compressm.train.stream import TrainStream, calibration_batches


@pytest.fixture(scope="module")
def splits():
    return load(DataConfig(name="digits", train_size=50))


def stream(splits, steps):
    return TrainStream(loaders(splits, batch_size=16, seed=3).train, steps)


def labels(batches):
    return [batch["labels"].tolist() for batch in batches]


def test_gives_exactly_the_steps_over_several_epochs(splits):
    batches = list(stream(splits, 10))  # an epoch has three batches
    assert len(batches) == len(stream(splits, 10)) == 10
    assert labels(batches[:3]) != labels(batches[3:6])


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4, 6, 9, 10])
def test_continues_where_its_state_was_taken(splits, position):
    whole = labels(stream(splits, 10))
    first = stream(splits, 10)
    given = labels(itertools.islice(first, position))
    second = stream(splits, 10)
    second.load_state_dict(first.state_dict())
    assert given + labels(second) == whole


def test_does_not_move_the_random_numbers_of_the_model(splits):
    before = torch.get_rng_state()
    list(stream(splits, 7))
    assert torch.equal(torch.get_rng_state(), before)


def test_calibration_batches_are_training_data_in_another_order(splits):
    before = torch.get_rng_state()
    batches = calibration_batches(splits.train, batch_size=16, count=5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(b["labels"]) for b in batches] == [16] * 5
    training = {row.numpy().tobytes() for row in splits.train[range(50)]["inputs"]}
    assert all(row.numpy().tobytes() in training for b in batches for row in b["inputs"])
    assert labels(batches[:3]) != labels(itertools.islice(stream(splits, 3), 3))
    assert len(calibration_batches(splits.train, batch_size=500, count=2, seed=0)) == 2
