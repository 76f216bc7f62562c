"""Samples of a batch do not depend on the order in which it comes, and stand for all of it."""

from __future__ import annotations

import pytest
import torch

from compressm.numerics import StateMoments, stack
from compressm.numerics.sampling import content_keys, sampled_sequences, sampled_steps
from tests.numerics.systems import F64, generator, lru, relative


def images(batch: int, rows: int = 28, seed: int = 0) -> torch.Tensor:
    """Sequences with a period and a slow trend, float32 as activations are."""
    g = generator(seed)
    t = torch.arange(rows * rows, dtype=F64)
    wave = torch.cos(2 * torch.pi * t / rows + 6 * torch.rand(batch, 1, generator=g, dtype=F64))
    trend = torch.randn(batch, 1, generator=g, dtype=F64) * t / len(t)
    noise = 0.3 * torch.randn(batch, len(t), generator=g, dtype=F64)
    return torch.stack([wave + trend, noise + wave.square()], 2).float()


def moments(system, batches, masks=None):
    out = StateMoments(system, max_samples=2048)
    for i, u in enumerate(batches):
        out.update(u, None if masks is None else masks[i])
    return out


def test_orders_of_batches_and_of_sequences_do_not_matter():
    s = lru(6, 2, 1, high=0.99)
    batches = [images(24, seed=i) for i in range(4)] + [images(9, seed=9)]
    first = moments(s, batches)
    assert 0.98 * 5 * 2048 < first.count <= 5 * 2052
    shuffled = [u[torch.randperm(len(u), generator=generator(5))] for u in reversed(batches)]
    again = moments(s, shuffled)
    assert relative(again.moment, first.moment) < 1e-12


def test_rounding_of_the_activations_does_not_matter():
    """The same sequence in another batch is the same to rounding, not bit for bit."""
    s, u = lru(6, 2, 1), images(32)
    noisy = u * (1 + 1e-7 * torch.randn(u.shape, generator=generator(2)))
    assert relative(moments(s, [noisy]).moment, moments(s, [u]).moment) < 1e-5


@pytest.mark.parametrize("masked", [False, True])
def test_samples_are_close_to_all_of_it(masked):
    s = lru(6, 2, 1, high=0.99)
    batches = [images(24, seed=i) for i in range(4)] + [images(3, seed=9)]
    masks = None
    if masked:
        masks = [torch.arange(784).expand(len(u), -1) < 500 for u in batches]
    exact = StateMoments(s)
    for i, u in enumerate(batches):
        exact.update(u, None if masks is None else masks[i])
    assert relative(moments(s, batches, masks).moment, exact.moment) < 0.02


def test_a_small_last_batch_counts_for_what_it_is():
    """Its sequences are sampled densely; their weight is that of their number all the same."""
    s = lru(4, 2, 1)
    large, small = images(64), 100 * images(1, seed=3)
    exact = StateMoments(s).update(large).update(small)
    assert relative(moments(s, [large, small]).moment, exact.moment) < 0.02


def test_passes_over_the_same_data_take_the_same_steps():
    s, other = lru(4, 2, 1), lru(3, 2, 2)
    batches = [images(16, seed=i) for i in range(2)]
    joint = moments(stack(s, other), batches).moment.view(2, 7, 2, 7)
    own = moments(s, batches).moment.view(2, 4, 2, 4)
    torch.testing.assert_close(joint[:, :4, :, :4], own)


def test_one_step_in_each_part_and_every_step_by_some_sequence():
    steps = sampled_steps(torch.randn(64, generator=generator(0)), 784, 49)
    assert bool((steps.view(64, 49, 16).sum(2) == 1).all())
    assert int((steps.sum(0) == 0).sum()) == 0


def test_sequences_that_do_not_differ_are_no_trouble():
    assert int(sampled_steps(torch.zeros(5), 40, 8).sum()) == 40
    assert sampled_sequences(torch.zeros(5), 5).sort().values.tolist() == [0, 1, 2, 3, 4]


def test_what_is_masked_does_not_tell_sequences_apart():
    u, mask = images(3), torch.arange(784).expand(3, -1) < 300
    junk = u.masked_fill(~mask[..., None], float("nan"))
    torch.testing.assert_close(content_keys(junk, mask), content_keys(u, mask))


def test_sequences_are_chosen_by_content():
    u = images(20)
    keys = content_keys(u)
    order = torch.randperm(20, generator=generator(4))
    for keep in (1, 7, 20):
        chosen, again = sampled_sequences(keys, keep), sampled_sequences(keys[order], keep)
        assert len(set(chosen.tolist())) == keep
        assert torch.equal(order[again], chosen)
