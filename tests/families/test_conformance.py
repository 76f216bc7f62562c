"""What every layer family must do, whatever its dynamics."""

import copy

import pytest
import torch

from compressm import (
    Calibration,
    Compressor,
    EnergyTolerance,
    FixedRank,
    Guard,
    WhenSettled,
    compress_,
    load_compressed,
    measure,
)
from compressm.errors import InputError
from compressm.families import find_sites
from tests.families.conformance import CASES

FULL, CUT = 12, 5
METHODS = [(family, method) for family, case in CASES.items() for method in case.methods]
SEEING = [(f, m) for f, m in METHODS if m not in CASES[f].blind]
# Which states stay is chosen in one place for all methods of a family.
SELECTIONS = [(f, m, "largest") for f, m in METHODS] + [
    (family, method, select)
    for family, case in CASES.items()
    for method in (case.methods if family == "LRU" else ["auto"])
    for select in ("smallest", "random")
]

pytestmark = pytest.mark.filterwarnings("ignore:.*Lazy modules:UserWarning")


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def calibration(case):
    """Batches, and a loss for the methods that weight by its gradient."""
    batches = [case.inputs() for _ in range(3)]
    return Calibration(batches, loss=lambda model, batch: model(batch)[:, -1].square().sum())


def cut(model, case, optimizer=None, method="auto", rank=CUT, **kwargs):
    return compress_(
        model, optimizer, policy=FixedRank(rank), method=method, data=calibration(case), **kwargs
    )


def site_of(model):
    ((name, site),) = find_sites(model).items()
    return name, site


def test_the_layer_is_found_by_its_path(case):
    model = case.build(FULL)
    name, site = site_of(model)
    assert site.state_dim == FULL
    assert model.get_submodule(name) is site.module


@pytest.mark.parametrize(("family", "method", "select"), SELECTIONS)
def test_every_method_cuts_the_state_and_training_goes_on(family, method, select):
    case = CASES[family]
    model, inputs = case.build(FULL), case.inputs()
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
    _, site = site_of(model)
    assert site.state_dim == CUT
    assert event.parameters_after == sum(p.numel() for p in model.parameters())
    saved = event.parameters_before - event.parameters_after
    assert saved == (FULL - CUT) * site.adapter.cost(site.module).parameters
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    steps()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert not [
        key
        for key, p in model.named_parameters()
        if torch.equal(before[key], p) and p.grad is not None
    ]
    sized = site.adapter.parameters(site.module)
    assert all(site.module.get_parameter(key).grad is not None for key in sized)


@pytest.mark.parametrize(("family", "method"), SEEING)
def test_states_that_cannot_matter_go_without_a_trace(family, method):
    case = CASES[family]
    small = case.build(CUT)
    model, inputs = case.pad(small, FULL - CUT), case.inputs()
    expected = model(inputs)
    close = {"rtol": case.tolerance, "atol": case.tolerance}
    torch.testing.assert_close(expected, small(inputs), **close)
    cut(model, case, method=method)
    close = {"rtol": max(case.tolerance, 1e-5), "atol": max(case.tolerance, 1e-5)}
    torch.testing.assert_close(model(inputs), expected, **close)


@pytest.mark.parametrize(("family", "method"), METHODS)
def test_measuring_changes_nothing(family, method):
    case = CASES[family]
    model = case.build(FULL).train()
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    (spectrum,) = measure(model, method=method, data=calibration(case)).values()
    assert spectrum.state_dim == FULL
    assert spectrum.energy(FULL) == pytest.approx(1)
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
    model = case.build(FULL)
    cut(model, case, rank=8)
    cut(model, case, rank=3)
    assert site_of(model)[1].state_dim == 3
    assert bool(torch.isfinite(model(case.inputs())).all())


def test_a_small_state_dict_loads_into_a_full_size_model(case):
    model, inputs = case.build(FULL), case.inputs()
    cut(model, case)
    fresh = case.build(FULL)
    load_compressed(fresh, model.state_dict())
    torch.testing.assert_close(fresh(inputs), model(inputs), rtol=0, atol=0)
    assert says(fresh) == says(model)


def says(model):
    """What the layer says about its own sizes, tensors as lists."""
    _, site = site_of(model)
    attributes = site.adapter.attributes(site.module, site.state_dim)
    found = {}
    for name in attributes:
        path, _, key = name.rpartition(".")
        value = getattr(site.module.get_submodule(path), key)
        found[name] = value.flatten().tolist() if isinstance(value, torch.Tensor) else value
    expected = {
        name: value.flatten().tolist() if isinstance(value, torch.Tensor) else value
        for name, value in attributes.items()
    }
    assert found == expected
    return found


def test_attributes_and_optimizer_are_rolled_back_with_the_parameters(case):
    model, inputs = case.build(FULL), case.inputs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(inputs).square().mean().backward()
    optimizer.step()
    before, sizes = copy.deepcopy(model.state_dict()), says(model)
    moments, output = copy.deepcopy(optimizer.state_dict()), model(inputs)
    scores = iter([1.0, 0.0])
    guard = Guard(lambda: next(scores), max_drop=0.1, max_attempts=1)
    event = cut(model, case, optimizer, guard=guard)
    assert event.kind == "rejected"
    assert says(model) == sizes
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict(), moments, rtol=0, atol=0)
    torch.testing.assert_close(model(inputs), output, rtol=0, atol=0)


def test_averaged_copies_are_cut_along(case):
    model, inputs = case.build(FULL), case.inputs()
    average = torch.optim.swa_utils.AveragedModel(model)
    cut(model, case, ema=[average])
    assert says(average.module) == says(model)
    torch.testing.assert_close(average(inputs), model(inputs))


def test_the_ranking_of_its_states_can_be_followed(case):
    model, data = case.build(FULL), calibration(case)
    schedule = WhenSettled(every=1, latest=6, patience=1, tolerance=0.3)
    compressor = Compressor(model, policy=FixedRank(CUT), schedule=schedule, data=data)
    kinds = []
    while "cut" not in kinds:
        event = compressor.step()
        kinds.append(event.kind)
    # Nothing has moved, so the ranking has settled as soon as two measurements agree.
    assert kinds == ["measured"] * (len(kinds) - 1) + ["cut"]
    assert 2 <= len(kinds) < 6
    assert site_of(model)[1].state_dim == CUT


def test_float32_layers_stay_float32(case):
    model = case.build(FULL).float()
    data = [case.inputs()]
    data = [x.float() if x.is_floating_point() else x for x in data]
    compress_(model, policy=FixedRank(CUT), data=data)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(data[0]).dtype == torch.float32


def test_the_same_cut_twice_is_the_same(case):
    models = [case.build(FULL)]
    models.append(copy.deepcopy(models[0]))
    for model in models:
        torch.manual_seed(3)
        cut(model, case, select="random")
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def test_a_tight_tolerance_leaves_a_full_layer_alone(case):
    model = case.build(FULL)
    before = copy.deepcopy(model.state_dict())
    event = compress_(model, policy=EnergyTolerance(1e-12))
    assert event.kind == "kept"
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_unknown_method_lists_the_known_ones(case):
    with pytest.raises(InputError, match=next(iter(case.methods))):
        measure(case.build(FULL), method="balance")


def test_a_method_that_needs_data_says_so(case):
    model = case.build(FULL)
    for method, needs_data in case.methods.items():
        if needs_data:
            with pytest.raises(InputError, match="data"):
                measure(model, method=method)
