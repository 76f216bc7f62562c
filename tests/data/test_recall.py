"""Associative recall: every label is the value that its key was shown with."""

import pytest
import torch

from compressm.data import UNLABELLED, DataConfig, load
from compressm.errors import ConfigError

SMALL = {"vocabulary": 21, "pairs": 3, "length": 15, "samples": 120, "test_samples": 30}


def recall(seed=0, val_size=20, **options):
    return load(DataConfig(name="recall", seed=seed, val_size=val_size, options=SMALL | options))


def whole(part):
    batch = part[torch.arange(len(part))]
    return batch["inputs"], batch["labels"]


def test_labels_are_the_values_of_their_keys():
    splits = recall()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (100, 20, 30)
    assert splits.task.per_step
    assert splits.task.monitor == "val/accuracy"
    for inputs, labels in map(whole, (splits.train, splits.val, splits.test)):
        assert inputs.dtype == labels.dtype == torch.int64
        for row, targets in zip(inputs.tolist(), labels.tolist(), strict=True):
            shown = dict(zip(row[0:6:2], row[1:6:2], strict=True))
            assert len(shown) == 3
            assert all(1 <= key <= 10 < value <= 20 for key, value in shown.items())
            asked = {k: v for k, v in zip(row, targets, strict=True) if v != UNLABELLED}
            assert asked == shown
            assert [v for v in targets if v != UNLABELLED] == [shown[k] for k in row[6:] if k]
            assert targets[:6] == [UNLABELLED] * 6


def test_queries_stand_everywhere_and_locality_draws_them_near():
    def mean_wait(locality):
        _, labels = whole(recall(locality=locality, samples=2_000).train)
        place = (labels != UNLABELLED).nonzero()[:, 1]
        assert {int(p) for p in place.unique()} == set(range(6, 15))
        return place.double().mean()

    assert mean_wait(1.0) == pytest.approx(10, abs=0.2)  # uniform over steps 6 … 14
    assert mean_wait(0.1) < 9.5


def test_examples_depend_on_the_generator_seed_alone():
    def rows(part):
        inputs, _ = whole(part)
        return {tuple(row) for row in inputs.tolist()}

    one, other, fresh = recall(seed=0), recall(seed=1), recall(generator_seed=1)
    assert rows(one.train) | rows(one.val) == rows(other.train) | rows(other.val)
    assert rows(one.val) != rows(other.val)
    assert rows(one.test) == rows(other.test) == rows(recall(samples=60).test)
    assert rows(one.test) != rows(fresh.test)
    assert not rows(one.test) & (rows(one.train) | rows(one.val))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "pairs: got 0"),
        ({"vocabulary": 6}, "vocabulary: got 6, expected at least 7"),
        ({"length": 8}, "length: got 8, expected at least 9"),
        ({"locality": 0.0}, "locality: got 0"),
        ({"samples": 1}, "samples: got 1"),
    ],
)
def test_sizes_that_do_not_fit_together(options, message):
    with pytest.raises(ConfigError, match=message):
        recall(**options)
