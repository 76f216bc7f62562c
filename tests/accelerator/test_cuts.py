"""What a cut makes is where the old one was, and what it measures does not depend on where."""

import copy

import pytest
import torch
from torch import nn

from compressm import Calibration, FixedRank, StepTimeBudget, compress_, measure
from compressm.nn import LRU, state_dims
from compressm.numerics import (
    StateSpace,
    balance,
    balanced_truncation,
    gramians,
    h2_refit,
    hankel_singular_values,
    hinf_error,
)
from tests.accelerator.common import (
    BUILDS,
    CUT,
    FULL,
    batches,
    lru,
    optimizer_devices,
    same,
    squared,
    train,
)
from tests.accelerator.device import DEVICE, device_module, second_device

HOME = torch.empty(0, device=DEVICE).device  # with its index


def cut(model, optimizer, kind, **options):
    data = Calibration(batches(kind), loss=squared)
    return compress_(model, optimizer, policy=FixedRank(CUT), data=data, **options)


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize(
    "make",
    [
        torch.optim.AdamW,
        lambda p: torch.optim.AdamW(p, fused=True, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    ],
    ids=["foreach", "fused", "momentum"],
)
def test_a_cut_stays_on_its_device_and_training_goes_on(kind, make):
    model, data = BUILDS[kind](), batches(kind)
    optimizer = make(model.parameters())
    train(model, optimizer, data)
    event = cut(model, optimizer, kind, method="gradient" if kind == "lru" else "greedy")
    assert [(change.before, change.after) for change in event.sites] == [(FULL, CUT)] * len(
        event.sites
    )
    assert {p.device for p in model.parameters()} == {HOME}
    assert {b.device for b in model.buffers()} <= {HOME}
    assert optimizer_devices(optimizer) == {HOME}
    assert all(p.grad is None or p.grad.device == HOME for p in model.parameters())
    train(model, optimizer, data)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("kind", BUILDS)
def test_parameters_alone_give_the_same_cut_everywhere(kind):
    method = "real-pairs" if kind == "lru" else "magnitude"
    states = []
    for device in (DEVICE, torch.device("cpu")):
        model = BUILDS[kind](device=device)
        compress_(model, policy=FixedRank(CUT), method=method)
        states.append({name: value.cpu() for name, value in model.state_dict().items()})
    same(*states)


@pytest.mark.parametrize("kind", BUILDS)
def test_data_give_the_same_cut_up_to_rounding(kind):
    spectra, data = [], batches(kind)
    for device in (DEVICE, torch.device("cpu")):
        model = BUILDS[kind](device=device).double()
        inputs = [x.double() if x.is_floating_point() else x for x in data]
        spectra.append(measure(model, data=inputs))
    for on_device, on_cpu in zip(*(s.values() for s in spectra), strict=True):
        assert on_device.values.device.type == "cpu"
        torch.testing.assert_close(on_device.values, on_cpu.values, rtol=1e-9, atol=1e-12)


class Placed(nn.Module):
    """Two layers, wherever they are."""

    def __init__(self, first, second):
        super().__init__()
        self.first = LRU(3, FULL, device=first)
        self.second = LRU(3, FULL, device=second)

    def forward(self, u):
        return self.second(self.first(u.to(self.first.D.device)).to(self.second.D.device))


@pytest.mark.parametrize("first", ["here", "cpu"])
@pytest.mark.parametrize("second", ["there", "cpu", "here"])
@pytest.mark.parametrize("method", ["auto", "gradient-data"])
def test_layers_of_one_model_may_be_on_several_devices(first, second, method):
    places = {"here": HOME, "cpu": torch.device("cpu"), "there": second_device()}
    if places[second] is None:
        pytest.skip("one device only")
    model = Placed(places[first], places[second])
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    inputs = [torch.randn(2, 20, 3) for _ in range(2)]
    squared(model, inputs[0]).backward()
    optimizer.step()
    compress_(model, optimizer, policy=FixedRank(CUT), method=method, data=inputs, loss=squared)
    assert state_dims(model) == {"first": CUT, "second": CUT}
    for layer, place in ((model.first, places[first]), (model.second, places[second])):
        assert {p.device for p in layer.parameters()} == {place}
    assert optimizer_devices(optimizer) == {places[first], places[second]}
    squared(model, inputs[0]).backward()
    optimizer.step()


@pytest.mark.parametrize("place", ["cpu", None])
def test_averages_stay_where_they_are(place):
    model = lru()
    average = torch.optim.swa_utils.AveragedModel(model, device=place)
    home = next(average.parameters()).device
    cut(model, None, "lru", ema=[average])
    assert {p.device for p in average.module.parameters()} == {home}
    average.update_parameters(model)
    same(
        {k: v.cpu() for k, v in average.module.state_dict().items()},
        {k: v.cpu() for k, v in model.state_dict().items()},
    )


def test_random_numbers_of_the_device_stay_where_they_were():
    model = lru(dropout=0.3)
    before = [device_module().get_rng_state(i) for i in range(device_module().device_count())]

    def noisy(model, batch):
        return squared(model, batch) + 0 * torch.rand(3, device=DEVICE).sum()

    compress_(
        model,
        policy=FixedRank(CUT),
        method="gradient",
        data=(torch.randn(4, 9, 1, device=DEVICE) for _ in range(2)),
        loss=noisy,
    )
    same([device_module().get_rng_state(i) for i in range(len(before))], before)


@pytest.mark.parametrize("kind", BUILDS)
def test_autocast_of_the_device_does_not_change_a_cut(kind):
    states, data = [], [batch[:2, :8] for batch in batches(kind, 1)]
    for enabled in (False, True):
        model = BUILDS[kind]().float()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled):
            compress_(model, policy=FixedRank(CUT), data=copy.deepcopy(data))
        states.append(model.state_dict())
    same(*states)


def test_a_timed_step_ends_when_the_device_is_idle(monkeypatch):
    waits, real = [], torch.accelerator.synchronize

    def counted(device=None):
        waits.append(device)
        real(device)

    monkeypatch.setattr(torch.accelerator, "synchronize", counted)
    model, batch = lru(), batches("lru")[0].to(DEVICE)
    policy = StepTimeBudget(lambda: squared(model, batch).backward(), 60.0, repeats=3, max_trials=1)
    event = compress_(model, policy=policy)
    assert "timed" in event.notes[0]
    assert waits == [HOME] * 6


def test_numerics_take_tensors_of_the_device_and_answer_on_the_cpu():
    A = 0.9 * torch.exp(1j * torch.linspace(0.1, 2.5, 6, device=DEVICE))
    B, C = torch.randn(2, 6, 2, device=DEVICE, dtype=torch.complex64)
    results = []
    for place in (DEVICE, torch.device("cpu")):
        system = StateSpace(A=A.to(place), B=B.to(place), C=C.to(place).mT, real_output=True)
        both = gramians(system)
        pair = (both.P.to(place), both.Q.to(place))
        balancing = balance(*pair, pairs=True)
        reduced = h2_refit(system, balanced_truncation(system, balancing, 2).system)
        results.append(
            [
                hankel_singular_values(*pair, pairs=True),
                reduced.A,
                reduced.C,
                system.markov(4),
                system.transfer(torch.linspace(0, 3, 5, device=place)),
                torch.tensor(hinf_error(system, reduced)),
            ]
        )
    same(*results)


def test_checksums_do_not_depend_on_the_device():
    from compressm.storage.bits import checksum, same_bits

    x = torch.randn(5, 3, dtype=torch.complex64)
    assert torch.equal(checksum([x]), checksum([x.to(DEVICE)]))
    assert same_bits(x.to(DEVICE), x)
