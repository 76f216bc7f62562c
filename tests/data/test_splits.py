import pytest
import torch

from compressm.data import DataConfig, load
from compressm.data.splits import cut_validation, permutation, stratified
from compressm.errors import ConfigError


def config(**changes):
    return DataConfig(**{"name": "digits", **changes})


@pytest.mark.parametrize(("val_size", "count"), [(7, 7), (0.25, 25), (0.001, 1)])
def test_validation_is_cut_from_train_and_nothing_is_lost(val_size, count):
    train, val = cut_validation(100, config(val_size=val_size, seed=3))
    assert len(val) == count
    assert sorted(train.tolist() + val.tolist()) == list(range(100))


def test_the_cut_depends_on_the_seed_only():
    first, again = (cut_validation(100, config(seed=1)) for _ in range(2))
    other = cut_validation(100, config(seed=2))
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = permutation(50, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(first, permutation(50, 5))


def test_smaller_training_sets_are_nested_and_keep_the_validation_part():
    full, half, tenth = (
        cut_validation(100, config(train_size=size, val_size=20)) for size in (None, 40, 8)
    )
    assert len(half[0]) == 40
    assert len(tenth[0]) == 8
    assert set(tenth[0].tolist()) < set(half[0].tolist()) < set(full[0].tolist())
    assert torch.equal(full[1], half[1])
    assert torch.equal(full[1], tenth[1])


def test_impossible_sizes():
    with pytest.raises(ConfigError, match="takes all of the 100"):
        cut_validation(100, config(val_size=100))
    with pytest.raises(ConfigError, match="90 training examples after validation"):
        cut_validation(100, config(train_size=91))
    with pytest.raises(ConfigError, match="360 test examples"):
        load(config(test_size=361))


def test_test_part_is_the_same_for_every_seed():
    for size in (None, 50):
        one, two = (load(config(seed=seed, test_size=size)).test for seed in (1, 2))
        assert torch.equal(one.index, two.index)
        every = torch.arange(len(one))
        assert torch.equal(one[every]["inputs"], two[every]["inputs"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_beginning_of_a_stratified_order_is_in_proportion(seed):
    sizes = torch.tensor([30, 30, 10, 1])
    strata = torch.repeat_interleave(torch.tensor([7, 2, 0, 5]), sizes)
    order = stratified(strata, seed)
    assert sorted(order.tolist()) == list(range(71))
    taken = torch.stack([(strata[order] == number).cumsum(0) for number in (7, 2, 0, 5)], 1)
    share = torch.arange(1, 72)[:, None] * sizes / 71
    # Each stratum is never more than one and a half examples away from its share.
    assert ((taken - share).abs() < 1.5).all()
    assert torch.equal(order, stratified(strata, seed))
    assert not torch.equal(order, stratified(strata, seed + 3))
