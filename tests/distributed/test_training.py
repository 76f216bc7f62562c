"""Two ranks against one process on the same batches: the same cuts, the same training."""

import copy

import pytest
import torch

from compressm import Calibration, EnergyTolerance, EventLog, Schedule, measure
from compressm.nn.matrix_state import LinearAttention
from tests.distributed.loops import CUT, FULL, Loop, build, calibration, close, module_of, wrap

TWO_CUTS = {"schedule": Schedule.at(4, 8), "policy": EnergyTolerance(0.1)}


def trains(rank, kind, method):
    data = calibration(rank) if method.endswith("data") else None
    loop = Loop(kind, rank, method=method, data=data, **TWO_CUTS)
    losses = loop.run()
    return losses, loop.weights(), loop.fingerprint(), loop.states


def trained_alone(method):
    """The same on one process, whose batches are those of both ranks together."""
    data = None
    if method.endswith("data"):
        shares = zip(calibration(0), calibration(1), strict=True)
        data = [torch.cat(parts) for parts in shares]
    loop = Loop("single", method=method, data=data, **TWO_CUTS)
    return loop.run(), loop.weights(), loop.states


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["real-pairs-h2", "empirical-data", "modes-data"])
def test_two_ranks_train_as_one_process_on_the_same_batches(pair, kind, method):
    (losses, weights, bits, states), (other, _, other_bits, _) = pair(trains, kind, method)
    assert bits == other_bits
    expected, weights_alone, states_alone = trained_alone(method)
    assert states == states_alone
    assert max(states) < FULL
    both = [(a + b) / 2 for a, b in zip(losses, other, strict=True)]
    # After a change of basis a state may have the other sign, so B and C are seen in the loss.
    assert both == pytest.approx(expected, rel=2e-3)
    shared = {n: w for n, w in weights.items() if ".B_" not in n and ".C_" not in n}
    close(shared, {n: weights_alone[n] for n in shared}, 2e-3)


@pytest.mark.parametrize(
    "make", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop]
)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_every_optimizer_goes_on(pair, kind, make):
    (bits, before, after, losses), (other, *_) = pair(optimizes, kind, make)
    assert bits == other
    assert all(not torch.equal(before[name], after[name]) for name in after)
    assert sum(losses[-5:]) < sum(losses[:5])


def optimizes(rank, kind, make):
    rate = {torch.optim.SGD: 0.3, torch.optim.Adagrad: 0.1}.get(make, 1e-2)
    loop = Loop(kind, rank, make=lambda parameters, lr: make(parameters, lr=rate))
    losses = loop.run(5)
    assert loop.states == [CUT, CUT]
    before = loop.weights()
    losses += loop.run(20)
    return loop.fingerprint(), before, loop.weights(), losses


@pytest.mark.parametrize("method", ["gradient-data", "gradient-fit"])
def test_gradient_weighted_methods_pool_gradients_of_both_ranks(pair, method):
    for kind in ("ddp", "fsdp"):
        (states, bits), other = pair(cuts_by_gradients, kind, method)
        assert states == [CUT, CUT]
        assert other == (states, bits)


def cuts_by_gradients(rank, kind, method):
    batches = calibration(rank)
    weighted = Calibration(batches, loss=lambda model, batch: model(batch).square().mean())
    loop = Loop(kind, rank, method=method, data=weighted)
    loop.run(8)
    return loop.states, loop.fingerprint()


def test_measuring_sees_whole_layers_and_the_data_of_all_ranks(pair):
    for kind in ("ddp", "fsdp"):
        values, other = pair(measures, kind)
        shares = zip(calibration(0), calibration(1), strict=True)
        data = [torch.cat(parts) for parts in shares]
        expected = measure(build(), method="empirical", data=data)
        assert list(values) == list(expected)
        for name, spectrum in expected.items():
            torch.testing.assert_close(values[name], spectrum.values, rtol=1e-5, atol=1e-7)
            assert torch.equal(values[name], other[name])


def measures(rank, kind):
    spectra = measure(wrap(kind, build()), method="empirical", data=calibration(rank))
    return {name: spectrum.values for name, spectrum in spectra.items()}


def test_a_layer_that_one_rank_alone_calls_is_measured_by_its_data(pair):
    """A model that goes another way for other inputs, whichever rank gets these."""
    for caller in range(2):
        first, other = pair(measures_on_one, caller)
        assert first == other
        assert first["1"] == pytest.approx(first["0"], rel=1e-5)


class Forked(torch.nn.ModuleList):
    def forward(self, u, both):
        return self[0](u) + self[1](u) if both else self[0](u)


def measures_on_one(rank, caller):
    torch.manual_seed(0)
    layer = LinearAttention(6, 4, heads=2)
    model = wrap("ddp", Forked([layer, copy.deepcopy(layer)]))
    # The same on both ranks, so that means are those of one.
    data = Calibration([torch.randn(2, 10, 6)], forward=lambda model, u: model(u, rank == caller))
    spectra = measure(model, method="greedy", data=data)
    return {name: spectrum.values.tolist() for name, spectrum in spectra.items()}


def test_random_selections_and_their_generator_stay_together(pair):
    ((bits, drawn), (other_bits, other_drawn)) = pair(selects_at_random)
    assert bits == other_bits
    assert torch.equal(drawn, other_drawn)


def selects_at_random(rank):
    loop = Loop("ddp", rank, select="random", seed=7)
    loop.run(8)
    return loop.fingerprint(), loop.compressor.state_dict()["transaction"]["generator"]


def test_layers_are_found_by_the_names_of_the_bare_model(pair):
    for kind in ("ddp", "fsdp"):
        events, other = pair(logs_events, kind)
        assert [site.site for site in events[0].sites] == [
            "encoder.blocks.0.layer",
            "encoder.blocks.1.layer",
        ]
        assert [e.sites for e in events] == [e.sites for e in other]
        assert [e.parameters_after for e in events] == [e.parameters_after for e in other]


def logs_events(rank, kind):
    loop = Loop(kind, rank)
    loop.run(6)
    assert module_of(loop.bare, "LRU").state_dim == CUT
    return loop.compressor.events


def test_only_the_first_rank_writes_the_log(pair, tmp_path):
    pair(writes_a_log, str(tmp_path / "events.jsonl"))
    assert [event.kind for event in EventLog.read(tmp_path / "events.jsonl")] == ["cut"]


def writes_a_log(rank, path):
    Loop("ddp", rank, log=path).run(6)
