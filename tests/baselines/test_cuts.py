"""Baselines that cut: when, how far, at which learning rate, and by what."""

import itertools
import math

import pytest

from compressm.baselines import PostTraining, Published
from compressm.baselines.truncation import gradual
from compressm.errors import ConfigError
from compressm.families import find_sites
from compressm.train.optim import rate_factor
from compressm.train.policies import build_policy
from tests.baselines.common import recipe, trained


@pytest.mark.parametrize(
    ("states", "kept", "cuts"), [(64, 16, 4), (64, 3, 4), (8, 7, 4), (5, 1, 1)]
)
def test_gradual_cuts_arrive_at_the_last_one_and_shrink_alike(states, kept, cuts):
    policy, sizes = build_policy(gradual(states, kept, cuts)), [states]
    for _ in range(cuts):
        target = math.ceil(policy.keep * sizes[-1])
        sizes.append(policy.constrain(target, sizes[-1]))
    assert sizes[-1] == kept
    if kept < states / 4:
        share = (kept / states) ** (1 / cuts)
        assert all(b / a == pytest.approx(share, abs=0.5 / a + 0.06) for a, b in _pairs(sizes))


def _pairs(sizes):
    return list(itertools.pairwise(sizes))


def test_the_published_method_cuts_four_times_in_the_warm_up_and_slices():
    config = recipe("trainer.steps=80")
    compress = Published(kept=2).configure(config).compress
    assert compress.method == "published"
    assert compress.transport == "slice"
    assert compress.build_schedule(80).steps == (2, 4, 6, 8)
    _, live = trained(Published(kept=2), config, steps=9)
    events = live.compressor.events
    assert [event.kind for event in events] == ["cut"] * 4
    sizes = [event.sites[0].after for event in events]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 2 == next(iter(find_sites(live.model).values())).state_dim


def test_with_a_tolerance_each_layer_is_cut_by_its_energy():
    compress = Published(tolerance=0.05).configure(recipe("trainer.steps=80")).compress
    assert compress.policy == {"name": "energy", "tolerance": 0.05}


def test_all_cut_after_the_training_leaves_the_end_for_the_cut():
    config = PostTraining(kept=2).configure(recipe())
    assert config.compress.build_schedule(8).steps == (8,)
    _, live = trained(PostTraining(kept=2), recipe())
    assert next(iter(find_sites(live.model).values())).state_dim == 2
    assert live.last_cut == 8


def test_fine_tuning_follows_a_whole_schedule_in_fewer_steps():
    plain = recipe("trainer.steps=100")
    config = PostTraining(kept=2, fine_tune=0.2, rate=0.05).configure(plain)
    assert config.trainer.steps == 100
    assert config.compress.build_schedule(100).steps == (80,)
    whole = rate_factor(plain.optim, 80, plain.optim.lr)
    found = rate_factor(config.optim, 100, config.optim.lr)
    assert [found(k) for k in range(80)] == [whole(k) for k in range(80)]
    assert {found(k) for k in range(80, 100)} == {0.05}
    falling = PostTraining(kept=2, fine_tune=0.2, rate=0.5, decay="cosine").configure(plain)
    found = rate_factor(falling.optim, 100, falling.optim.lr)
    assert [found(k) for k in range(80)] == [whole(k) for k in range(80)]
    assert [found(80), found(90)] == pytest.approx([0.5, 0.25], rel=1e-3)
    assert found(99) == pytest.approx(0.25 * (1 + math.cos(math.pi * 0.95)), rel=1e-2)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Published(), "either kept or tolerance"),
        (lambda: Published(kept=3, tolerance=0.1), "either kept or tolerance"),
        (lambda: Published(tolerance=1.0), "tolerance: got 1.0"),
        (lambda: PostTraining(kept=3, fine_tune=1.0), "fine_tune: got 1.0"),
        (lambda: PostTraining(kept=3, rate=0.0).configure(recipe()), "tail_rate: got 0.0"),
        (lambda: PostTraining(kept=8).configure(recipe()), "expected fewer than the 8 states"),
    ],
)
def test_slips_are_told(make, told):
    with pytest.raises(ConfigError, match=told):
        make()
