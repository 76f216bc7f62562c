"""Looking at data and models leaves every random number generator where it was."""

import functools
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from compressm import Calibration, FixedRank, Guard, compress_, measure
from compressm.nn import LRU
from compressm.runtime.randomness import generators_in, random_states, unmoved


class Augmented(Dataset):
    """Draws from every generator there is, its own ones included."""

    def __init__(self):
        self.own = {"torch": torch.Generator().manual_seed(1), "python": random.Random(2)}
        self.numpy = [np.random.default_rng(3), np.random.RandomState(4), np.random.PCG64(5)]

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator, old, bits = self.numpy
        drawn = [random.random(), np.random.rand(), self.own["python"].random()]
        drawn += [generator.random(), old.rand(), bits.random_raw() / 2**64]
        drawn += [float(torch.rand(())), float(torch.rand((), generator=self.own["torch"]))]
        return torch.tensor(drawn, dtype=torch.float32).repeat(10, 1)


class Stream(IterableDataset):
    def __init__(self):
        self.examples = Augmented()

    def __iter__(self):
        return (self.examples[i] for i in range(8))


def shuffled():
    generator = torch.Generator().manual_seed(0)
    return DataLoader(Augmented(), batch_size=4, shuffle=True, generator=generator)


def sampled():
    data = Augmented()
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(0))
    return DataLoader(data, batch_size=4, sampler=sampler)


def streamed():
    return DataLoader(Stream(), batch_size=4, generator=torch.Generator().manual_seed(0))


def by_workers():
    generator = torch.Generator().manual_seed(0)
    return DataLoader(Augmented(), batch_size=4, shuffle=True, generator=generator, num_workers=1)


def state(generator):
    for read in ("get_state", "getstate"):
        if hasattr(generator, read):
            found = getattr(generator, read)()
            return found.tolist() if isinstance(found, torch.Tensor) else pickle.dumps(found)
    return pickle.dumps(getattr(generator, "bit_generator", generator).state)


def states(*holders):
    everywhere = random_states()
    everywhere["torch"] = everywhere["torch"].tolist()
    return [state(g) for g in generators_in(*holders)], everywhere


@pytest.mark.parametrize("make", [shuffled, sampled, streamed, by_workers])
def test_taking_batches_moves_no_generator(make):
    loader = make()
    assert len(generators_in(loader)) >= 6
    before = states(loader)
    batches = Calibration(loader, max_batches=1).data
    assert states(loader) == before
    if make is not by_workers:  # whose processes draw their numbers
        torch.testing.assert_close(batches[0], next(iter(loader)), rtol=0, atol=0)


def test_a_loader_in_mid_epoch_goes_on():
    options = {"batch_size": 2, "num_workers": 1, "persistent_workers": True}
    loader = DataLoader(torch.arange(8.0), **options)
    epoch = iter(loader)
    seen = [next(epoch)]
    Calibration(loader)
    seen += list(epoch)
    assert torch.cat(seen).tolist() == list(range(8))


class Noisy(nn.Module):
    """A layer behind noise from a generator of its own, and from the global ones."""

    def __init__(self):
        super().__init__()
        self.layer, self.generator = LRU(8, 12), torch.Generator().manual_seed(0)

    def forward(self, u):
        noise = torch.rand(u.shape, generator=self.generator) + torch.rand_like(u)
        return self.layer(nn.functional.dropout(u + noise * random.random() * np.random.rand()))


@pytest.mark.parametrize("act", ["measure", "compress_", "guarded"])
def test_measuring_and_cutting_move_no_generator(act):
    model, loader = Noisy(), shuffled()

    def metric():
        return float(model(next(iter(loader))).detach().square().mean())

    options = {"data": loader, "loss": lambda m, b: m(b).square().mean()}
    if act != "measure":
        options["policy"] = FixedRank(4)
    if act == "guarded":
        options["guard"] = Guard(metric, max_drop=1e9)
    before = states(model, loader)
    (measure if act == "measure" else compress_)(model, **options)
    assert states(model, loader) == before


def test_generators_are_found_behind_functions():
    mine = [torch.Generator() for _ in range(3)]

    class Holder:
        def __init__(self):
            self.inner = {"a": [mine[0]]}

        def draw(self, by=mine[1]):
            return by

    assert generators_in(Holder().draw) == mine[:2][::-1]
    assert generators_in(functools.partial(print, mine[2])) == [mine[2]]
    assert generators_in(lambda: mine[0]) == mine
    assert generators_in(lambda: GLOBAL) == [GLOBAL]


GLOBAL = random.Random(0)


def test_they_come_back_after_an_error():
    generator = random.Random(7)

    def draw_and_fail():
        with unmoved(generator):
            generator.random()
            raise KeyError

    before = generator.getstate()
    with pytest.raises(KeyError):
        draw_and_fail()
    assert generator.getstate() == before


def test_many_examples_are_not_looked_through():
    data = [{"text": "a" * 5, "label": i} for i in range(300_000)]
    assert generators_in({"data": data, "g": GLOBAL}) == [GLOBAL]


class Slots:
    __slots__ = ("_seeds", "generator", "unset")

    def __init__(self):
        self.generator, self._seeds = np.random.default_rng(0), np.random.SeedSequence(1)


def test_generators_in_slots_are_found_and_seeds_left_alone():
    holder = Slots()
    before = state(holder.generator)
    with unmoved(holder, np.random.SeedSequence(2)):
        holder.generator.random()
    assert generators_in(holder) == [holder.generator]
    assert state(holder.generator) == before
