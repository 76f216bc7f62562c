"""What every layer family must do, whatever its dynamics."""

import copy

import pytest
import torch
from torch import nn

from compressm import Calibration, EnergyTolerance, FixedRank, compress_, measure
from compressm.adapters import find_sites
from compressm.errors import InputError
from tests.adapters.conformance import CASES

FULL, CUT = 12, 5
METHODS = [(family, method) for family, case in CASES.items() for method in case.methods]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def wrap(layer):
    return nn.Sequential(nn.Identity(), layer)


def calibration(case):
    """Batches, and a loss for the methods that weight by its gradient."""
    batches = [case.inputs() for _ in range(3)]
    return Calibration(batches, loss=lambda model, batch: model(batch)[:, -1].square().sum())


def cut(model, case, optimizer=None, method="auto", rank=CUT, **kwargs):
    return compress_(
        model, optimizer, policy=FixedRank(rank), method=method, data=calibration(case), **kwargs
    )


def test_the_layer_is_found_by_its_path(case):
    sites = find_sites(wrap(case.build(FULL)))
    assert {name: site.state_dim for name, site in sites.items()} == {"1": FULL}


@pytest.mark.parametrize(("family", "method"), METHODS)
@pytest.mark.parametrize("select", ["largest", "smallest", "random"])
def test_every_method_cuts_the_state_and_training_goes_on(family, method, select):
    case = CASES[family]
    model, inputs = wrap(case.build(FULL)), case.inputs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def steps():
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()

    steps()
    event = cut(model, case, optimizer, method, select=select)
    (change,) = event.sites
    assert (change.before, change.after, event.kind) == (FULL, CUT, "cut")
    assert find_sites(model)["1"].state_dim == CUT
    assert event.parameters_after == sum(p.numel() for p in model.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert not any(torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize(("family", "method"), METHODS)
def test_states_that_cannot_matter_go_without_a_trace(family, method):
    case = CASES[family]
    small = case.build(CUT)
    model, inputs = wrap(case.pad(small, FULL - CUT)), case.inputs()
    expected = model(inputs)
    torch.testing.assert_close(expected, small(inputs))
    cut(model, case, method=method)
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "method"), METHODS)
def test_measuring_changes_nothing(family, method):
    case = CASES[family]
    model = wrap(case.build(FULL)).train()
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    spectra = measure(model, method=method, data=calibration(case))
    assert spectra["1"].state_dim == FULL
    assert spectra["1"].energy(FULL) == pytest.approx(1)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    # Only the fixture's own draws may have moved the generator.
    torch.set_rng_state(rng)
    calibration(case)
    rng_after_draws = torch.get_rng_state()
    torch.set_rng_state(rng)
    measure(model, method=method, data=calibration(case))
    assert torch.equal(torch.get_rng_state(), rng_after_draws)


def test_a_second_cut_follows_a_first(case):
    model = wrap(case.build(FULL))
    cut(model, case, rank=8)
    cut(model, case, rank=3)
    assert find_sites(model)["1"].state_dim == 3
    assert bool(torch.isfinite(model(case.inputs())).all())


def test_a_small_state_dict_loads_into_a_full_size_layer(case):
    model, inputs = wrap(case.build(FULL)), case.inputs()
    cut(model, case)
    fresh = wrap(case.build(FULL))
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(inputs), model(inputs), rtol=0, atol=0)


def test_float32_layers_stay_float32(case):
    model = wrap(case.build(FULL)).float()
    data = [case.inputs().float()]
    compress_(model, policy=FixedRank(CUT), data=data)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(data[0]).dtype == torch.float32


def test_the_same_cut_twice_is_the_same(case):
    models = [wrap(case.build(FULL))]
    models.append(copy.deepcopy(models[0]))
    for model in models:
        torch.manual_seed(3)
        cut(model, case, select="random")
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def test_a_tight_tolerance_leaves_a_full_layer_alone(case):
    model = wrap(case.build(FULL))
    before = copy.deepcopy(model.state_dict())
    event = compress_(model, policy=EnergyTolerance(1e-12))
    assert event.kind == "kept"
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_unknown_method_lists_the_known_ones(case):
    with pytest.raises(InputError, match=case.methods[0]):
        measure(wrap(case.build(FULL)), method="balance")


def test_a_method_that_needs_data_says_so(case):
    model = wrap(case.build(FULL))
    for method in case.methods:
        if "data" in method:
            with pytest.raises(InputError, match="data"):
                measure(model, method=method)
