"""A cut never rests on nothing, and an event never says that all is kept when nothing was seen."""

import json

import pytest
import torch
from torch import nn

from compressm import (
    Compressor,
    EnergyTolerance,
    FixedFraction,
    FixedRank,
    GlobalEnergy,
    GlobalThreshold,
    StateBytesBudget,
    WhenSettled,
    compress_,
    measure,
)
from compressm.errors import InputError
from compressm.nn import LRU, state_dims
from compressm.spectrum import Spectrum
from tests.families.mambas import WIDTH, Mamba, Mamba2

STATES = 12
LAYERS = {
    "LRU": lambda: LRU(WIDTH, STATES),
    "Mamba": lambda: Mamba(WIDTH, STATES),
    "Mamba-2": lambda: Mamba2(WIDTH, STATES),
}


class Two(nn.Module):
    """Two layers, and what a batch must have in it to reach the second."""

    def __init__(self, kind, reaches=lambda x: x):
        super().__init__()
        self.first, self.second = LAYERS[kind](), LAYERS[kind]()
        self.reaches = reaches

    def forward(self, x):
        y = self.first(x)
        passed = self.reaches(y)
        return y if passed is None else y + self.second(passed)


def data():
    return [torch.randn(3, 15, WIDTH, generator=torch.Generator().manual_seed(0))]


def states(model):
    return [s.state_dim for s in measure(model).values()]


POLICIES = [EnergyTolerance(0.01), GlobalEnergy(0.01), FixedRank(4), StateBytesBudget(900)]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("policy", POLICIES[:3])
def test_silence_is_an_error(kind, policy):
    model = LAYERS[kind]()
    with pytest.raises(InputError, match=r"data: nothing was measured.*inputs .* are zero"):
        compress_(model, policy=policy, data=[torch.zeros(3, 15, WIDTH)])
    assert states(model) == [STATES]


def test_masked_batches_are_an_error():
    batch = {"u": torch.randn(3, 15, WIDTH), "mask": torch.zeros(3, 15)}
    with pytest.raises(InputError, match=r"nothing was measured.*all were masked"):
        compress_(LAYERS["LRU"](), policy=FixedRank(4), data=[batch])


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda m, b: (m(b) * 0).sum(), "gradient of the loss is zero"),
        (lambda m, b: m(b).detach().sum() + m.D.sum(), "no gradient of the loss reaches it"),
    ],
)
def test_a_loss_that_does_not_depend_on_the_layers_is_an_error(loss, says):
    with pytest.raises(InputError, match=f"nothing was measured.*{says}"):
        compress_(LAYERS["LRU"](), policy=FixedRank(4), data=data(), loss=loss)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("reaches", [lambda x: None, torch.zeros_like], ids=["no call", "silence"])
class TestALayerThatSawNothing:
    @pytest.mark.parametrize("policy", [EnergyTolerance(0.3), GlobalEnergy(0.3)])
    def test_stays_as_it_is_and_the_event_says_why(self, kind, reaches, policy):
        model = Two(kind, reaches)
        event = compress_(model, policy=policy, data=data())
        first, second = event.sites
        assert first.after < STATES
        assert first.energy_kept >= 0.6
        assert first.notes == () or "not measured" not in first.notes[0]
        assert (second.after, second.energy_kept, second.data_error) == (STATES, None, None)
        assert second.notes[0].startswith("not measured: ")
        assert json.loads(event.to_json())["sites"][1]["energy_kept"] is None

    @pytest.mark.parametrize("policy", [FixedRank(4), FixedFraction(0.5)])
    def test_is_not_cut(self, kind, reaches, policy):
        model = Two(kind, reaches)
        with pytest.raises(InputError, match=r"'second': .* would rest on nothing.*method without"):
            compress_(model, policy=policy, data=data())
        assert states(model) == [STATES, STATES]

    def test_can_be_cut_by_a_method_without_data(self, kind, reaches):
        model = Two(kind, reaches)
        method = "real-pairs-h2" if kind == "LRU" else "magnitude"
        event = compress_(model, policy=FixedRank(4), data=data(), method=method)
        assert [site.after for site in event.sites] == [4, 4]
        assert all(site.energy_kept > 0 for site in event.sites)


def test_a_layer_off_the_way_to_the_loss_stays_as_it_is():
    model = Two("LRU", torch.zeros_like)
    model.reaches = lambda y: y
    options = {"data": data(), "loss": lambda m, b: m.first(b).square().sum() + m.second.D.sum()}
    event = compress_(model, policy=EnergyTolerance(0.3), **options)
    assert event.sites[1].after == STATES
    assert "no gradient of the loss reaches it" in event.sites[1].notes[0]


def test_what_cannot_be_refitted_is_said():
    model = Two("LRU", torch.zeros_like)
    event = compress_(model, policy=FixedRank(4), data=data(), method="real-pairs-data")
    first, second = event.sites
    assert first.data_error is not None
    assert (second.after, second.data_error) == (4, None)
    assert any(note.startswith("not refitted on data: all its inputs") for note in second.notes)


@pytest.mark.parametrize("part", ["B", "C"])
@pytest.mark.parametrize("given", [{}, {"data": data()}])
def test_a_dead_layer_is_a_fact(part, given):
    model = LAYERS["LRU"]()
    with torch.no_grad():
        for name in (f"{part}_re", f"{part}_im"):
            getattr(model, name).zero_()
        x = data()[0]
        before = model(x)
    event = compress_(model, policy=EnergyTolerance(0.01), **given)
    (site,) = event.sites
    assert (site.after, site.energy_kept) == (1, None)
    assert "its states do nothing" in site.notes[0]
    torch.testing.assert_close(model(x), before)


def test_a_ranking_of_nothing_never_settles():
    model = Two("LRU", torch.zeros_like)
    schedule = WhenSettled(every=1, latest=100, patience=1)
    compressor = Compressor(model, policy=EnergyTolerance(0.3), schedule=schedule, data=data())
    events = [compressor.step() for _ in range(4)]
    assert {event.kind for event in events} == {"measured"}
    assert list(state_dims(model).values()) == [STATES, STATES]


def test_a_spectrum_of_nothing():
    nothing = Spectrum(values=torch.zeros(4), state_dim=4, unseen="silence")
    seen = Spectrum(values=torch.tensor([3.0, 1.0, 0.0, 0.0]), state_dim=4)
    assert nothing.energy(1) is None
    assert nothing.rank_for_energy(0.5) == 4
    assert nothing.notes == ("not measured: silence",)
    spectra = {"a": nothing, "b": seen}
    assert GlobalThreshold(0.5).targets(spectra)["a"] == 4
    assert GlobalEnergy(0.25).targets(spectra) == {"a": 4, "b": 1}
    dead = Spectrum(values=torch.zeros(4), state_dim=4)
    assert (dead.energy(1), dead.rank_for_energy(0.5)) == (None, 0)
    assert seen.notes == ()
