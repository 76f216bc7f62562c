import pytest
import torch
from torch.utils.data import DataLoader

from compressm.data import BatchOrder, DataConfig, load, loaders
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import Ragged, SequenceDataset, Values
from compressm.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return load(DataConfig(name="digits", train_size=100))


@pytest.fixture(scope="module")
def padded():
    lengths = torch.randint(1, 60, (500,), generator=torch.Generator().manual_seed(0))
    flat = torch.ones(int(lengths.sum()), dtype=torch.uint8)
    data = SequenceDataset(
        {
            "inputs": Ragged(flat, lengths.cumsum(0) - lengths, lengths),
            "labels": Values(torch.arange(500)),
        }
    )
    task = Task(
        kind="classification", input="token", input_size=2, classes=500, length=60, padded=True
    )
    rows = torch.arange(500)
    return DataSplits(
        task=task,
        train=data.subset(rows[:300]),
        val=data.subset(rows[300:400]),
        test=data.subset(rows[400:]),
    )


def same(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_once_per_epoch(with_lengths, drop_last, shuffle):
    lengths = torch.randint(1, 90, (103,)) if with_lengths else None
    order = BatchOrder(103, 10, shuffle=shuffle, drop_last=drop_last, lengths=lengths)
    batches = list(order)
    assert len(batches) == len(order) == (10 if drop_last else 11)
    rows = torch.cat(batches).tolist()
    assert len(set(rows)) == len(rows) == (100 if drop_last else 103)
    assert set(rows) <= set(range(103))


@pytest.mark.parametrize("with_lengths", [False, True])
def test_order_depends_on_seed_and_epoch_alone(with_lengths):
    lengths = torch.arange(1, 201) if with_lengths else None

    def order(seed):
        return BatchOrder(200, 8, shuffle=True, seed=seed, lengths=lengths)

    epochs = [order(1).batches(epoch) for epoch in range(3)]
    jumped = order(1)
    jumped.set_epoch(2)
    assert same(list(jumped), epochs[2])
    assert same(list(jumped), epochs[2])
    assert not same(epochs[0], epochs[1])
    assert not same(list(order(2)), epochs[1])
    assert not same(list(order(2)), epochs[0])


def test_the_rows_that_drop_last_drops_are_not_always_the_longest():
    lengths = torch.arange(1, 26)
    order = BatchOrder(25, 10, shuffle=True, drop_last=True, lengths=lengths)
    dropped = [set(range(25)) - set(torch.cat(order.batches(e)).tolist()) for e in range(20)]
    assert set.union(*dropped) != set(range(20, 25))
    assert len(set.union(*dropped)) > 10


def test_buckets_need_less_padding_but_stay_random(padded):
    def filled(bucket):
        loader = loaders(padded, batch_size=5, bucket=bucket).train
        masks = [batch["mask"].float().mean() for batch in loader]
        return torch.stack(masks)

    assert filled(True).mean() > 0.9 > 0.75 > filled(False).mean()
    loader = loaders(padded, batch_size=5).train
    longest = torch.tensor([float(batch["inputs"].shape[1]) for batch in loader])
    steps = torch.arange(len(longest), dtype=torch.float)
    assert abs(torch.corrcoef(torch.stack([longest, steps]))[0, 1]) < 0.4


def test_evaluation_sees_every_example_once(padded):
    both = loaders(padded, batch_size=7)
    for loader, expected in ((both.val, range(300, 400)), (both.test, range(400, 500))):
        for _ in range(2):
            labels = torch.cat([batch["labels"] for batch in loader])
            assert sorted(labels.tolist()) == list(expected)


def test_a_loader_resumes_in_mid_epoch(digits):
    def fresh():
        return loaders(digits, batch_size=16, seed=4).train

    uninterrupted = fresh()
    expected = [batch["labels"] for _ in range(2) for batch in uninterrupted]
    first = fresh()
    seen = []
    for epoch in range(2):
        for step, batch in enumerate(first):
            seen.append(batch["labels"])
            if epoch == 1 and step == 2:
                break
    state = first.state_dict()
    assert state == {"epoch": 1, "batches": 3}
    second = fresh()
    second.load_state_dict(state)
    # What Lightning calls before it goes on; it must not throw the position away.
    second.sampler.set_epoch(1)
    assert second.state_dict() == state
    seen += [batch["labels"] for batch in second]
    assert same(seen, expected)
    assert second.state_dict() == {"epoch": 2, "batches": 0}


def test_set_epoch_to_another_epoch_starts_at_its_first_batch(digits):
    loader = loaders(digits, batch_size=16).train
    loader.load_state_dict({"epoch": 1, "batches": 3})
    loader.sampler.set_epoch(2)
    assert len(list(loader)) == len(loader) == 6


def test_workers_give_the_same_batches(digits):
    here = loaders(digits, batch_size=16).train
    there = loaders(digits, batch_size=16, num_workers=1).train
    for epoch in range(3):
        expected = [batch["labels"] for batch in here]
        assert same([batch["labels"] for batch in there], expected), epoch
    # Workers fetch ahead; the state counts only what was handed out.
    next(iter(there))
    assert there.state_dict() == {"epoch": 3, "batches": 1}


def test_a_pass_leaves_the_global_random_state_alone(digits):
    before = torch.get_rng_state()
    for loader in (loaders(digits, batch_size=16).train, loaders(digits, batch_size=16).val):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_ordinary_loader_works_too(digits):
    batch = next(iter(DataLoader(digits.train, batch_size=9)))
    assert batch["inputs"].shape == (9, 64, 1)
    assert torch.equal(batch["inputs"], digits.train[list(range(9))]["inputs"])


def test_batch_sizes_are_checked(digits):
    with pytest.raises(InputError, match="only 100 training"):
        loaders(digits, batch_size=101)
    assert len(loaders(digits, batch_size=101, drop_last=False).train) == 1
    with pytest.raises(InputError, match="batch_size: got 0"):
        loaders(digits, batch_size=0)
    with pytest.raises(InputError, match="eval_batch_size: got -1"):
        loaders(digits, batch_size=4, eval_batch_size=-1)


def test_asking_for_buckets_changes_nothing_when_nothing_is_padded(digits):
    plain, bucketed = (loaders(digits, batch_size=8, bucket=b).train for b in (False, True))
    assert same([x["labels"] for x in plain], [x["labels"] for x in bucketed])
