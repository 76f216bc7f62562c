"""The Hankel-nuclear-norm penalty: what it adds, when, and that it does what it is for."""

import copy

import pytest
import torch

from compressm.baselines import HankelNuclearNorm, Scratch
from compressm.baselines.hankel_norm import penalty
from compressm.errors import ConfigError
from compressm.families import find_sites
from compressm.nn import LRU, S4D, S5
from compressm.once import measure
from compressm.train import loss_of
from tests.baselines.common import no_teacher, recipe, same_parameters, trained

LAYERS = {
    "LRU": lambda: LRU(3, 5, r_min=0.5, r_max=0.98),
    "S5": lambda: S5(3, 5, dt_min=0.1, dt_max=0.5),
    "S4D": lambda: S4D(3, 5, dt_min=0.1, dt_max=0.5),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_the_penalty_is_the_sum_of_the_measured_values(layer):
    model = torch.nn.Sequential(LAYERS[layer](), LAYERS[layer]()).double()
    sites = find_sites(model)
    expected = sum(
        site.adapter.observe(site.module, "real-pairs", given="nothing")
        .measure()
        .measured.balancing.sigma.sum()
        for site in sites.values()
    )
    assert float(penalty(model).detach()) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_its_gradient_reaches_every_parameter_of_the_map(layer):
    model = LAYERS[layer]().double()
    penalty(model).backward()
    ahead = {name: p.grad for name, p in model.named_parameters()}
    assert ahead.pop("D") is None  # the feed-through has no state
    for name, gradient in ahead.items():
        direction = torch.randn_like(gradient)
        direction /= direction.norm()
        sides = []
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                moved.get_parameter(name).add_(direction, alpha=sign * 1e-5)
            sides.append(float(penalty(moved).detach()))
        slope = (sides[0] - sides[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_no_weight_leaves_the_training_as_it_is_bit_for_bit():
    config = recipe()
    _, plain = trained(Scratch(kept=8), config, steps=7)
    _, live = trained(HankelNuclearNorm(kept=3, weight=0.0), config, steps=7)
    assert same_parameters(live.model, plain.model)


def test_the_penalty_comes_every_few_steps_at_the_same_mean_and_not_after_the_cut():
    config = recipe()
    bench, live = trained(Scratch(kept=8), config, steps=0)
    model, batch = live.model, bench.batch(0)
    model.eval()
    plain = float(loss_of(model, batch).detach())
    loss = (
        HankelNuclearNorm(kept=3, weight=1e-3, every=3, at=0.5).objective(config, no_teacher).loss
    )
    added = [float(loss(model, batch, step).detach()) - plain for step in range(8)]
    expected = 3e-3 * float(penalty(model).detach())
    # 8 steps: the cut is after the fourth.
    assert added == pytest.approx([expected, 0, 0, expected, 0, 0, 0, 0], abs=1e-5)


def test_a_strong_penalty_makes_the_values_smaller():
    config = recipe("trainer.steps=20")
    totals = {}
    for weight in (0.0, 0.1):
        _, live = trained(HankelNuclearNorm(kept=3, weight=weight), config, steps=19)
        spectra = measure(live.model, method="real-pairs")
        totals[weight] = sum(spectrum.total for spectrum in spectra.values())
    assert totals[0.1] < 0.9 * totals[0.0]


@pytest.mark.parametrize("layer", ["lru", "s5", "s4d"])
def test_the_end_has_the_size(layer):
    config = recipe(f"model.layer={layer}", "trainer.steps=4")
    _, live = trained(HankelNuclearNorm(kept=3, weight=1e-3), config)
    assert live.compressor.events[0].step == 4
    assert [site.state_dim for site in find_sites(live.model).values()] == [3]


def test_other_layers_are_refused_by_name():
    config = recipe("model.layer=gla")
    with pytest.raises(ConfigError, match=r"hankel-nuclear-norm: layer '.*': .* layers have no"):
        trained(HankelNuclearNorm(kept=2, weight=1.0, method="auto"), config, steps=1)


def test_slips_are_told():
    with pytest.raises(ConfigError, match="weight: got -1"):
        HankelNuclearNorm(kept=3, weight=-1.0)
    with pytest.raises(ConfigError, match="expected fewer than the 8 states"):
        HankelNuclearNorm(kept=8, weight=1.0).configure(recipe())
