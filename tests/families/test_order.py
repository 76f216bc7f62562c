"""A cut does not depend on the order in which its data come."""

import copy

import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_
from compressm.families import find_sites
from compressm.families.matrix_state.corrections import descent, fit, samples
from compressm.families.matrix_state.probes import LayerProbe
from compressm.nn import LRU
from compressm.nn.matrix_state import LinearAttention
from tests.families import mambas


def shuffled(batches):
    g = torch.Generator().manual_seed(3)
    mixed = [batch[torch.randperm(len(batch), generator=g)] for batch in batches]
    return [mixed[i] for i in torch.randperm(len(mixed), generator=g)]


@pytest.mark.parametrize(
    "method", ["empirical-data", "gradient-data", "modes-data", "gradient-fit"]
)
def test_of_an_lru(method, monkeypatch):
    monkeypatch.setattr("compressm.families.lti.refits.fit._SEARCHED", 3000)
    torch.manual_seed(0)
    one = LRU(3, 8).double()
    batches = [torch.randn(24, 300, 3, dtype=torch.float64).cumsum(1) for _ in range(3)]
    other = copy.deepcopy(one)
    calls = {"loss": lambda model, batch: model(batch)[:, -1].square().mean()}
    for model, data in ((one, batches), (other, shuffled(batches))):
        compress_(model, policy=FixedRank(3), method=method, data=data, **calls)
    u = batches[0]
    torch.testing.assert_close(
        other(u), one(u), rtol=1e-6, atol=1e-6 * float(one(u).detach().std())
    )


@pytest.mark.parametrize(
    ("method", "length"),
    [("greedy-fit", 24), ("greedy-refit", 300), ("greedy-output", 300), ("hankel", 24)],
)
def test_of_a_selective_layer(method, length, monkeypatch):
    """Short sequences of which a share is taken, and long ones of which some calls are."""
    monkeypatch.setattr(LayerProbe, "per_call", 256)
    monkeypatch.setattr(LayerProbe, "tokens", 1024)
    monkeypatch.setattr(samples.OnSamples, "tokens", 1024)
    torch.manual_seed(0)
    one = nn.Sequential(mambas.Mamba(mambas.WIDTH, 8)).double()
    batches = [torch.randn(12, length, mambas.WIDTH, dtype=torch.float64) for _ in range(4)]
    other = copy.deepcopy(one)
    sites = []
    for model, data in ((one, batches), (other, shuffled(batches))):
        sites += compress_(model, policy=FixedRank(3), method=method, data=data).sites
    u = batches[0]
    expected = one(u).detach()
    torch.testing.assert_close(other(u), expected, rtol=1e-5, atol=1e-5 * float(expected.std()))
    assert sites[0].data_error == pytest.approx(sites[1].data_error, rel=1e-6)


def test_long_sequences_take_no_more_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(LayerProbe, "tokens", 2048)
    monkeypatch.setattr(LayerProbe, "per_call", 256)
    added = []

    class Counts(LayerProbe):
        def add(self, seen):
            added.append(seen.hidden.shape[:2])

        def pool(self, total):
            """Nothing is summed."""

    layer = mambas.Mamba(mambas.WIDTH, 8)
    site = find_sites(layer)[""].adapter
    probe = Counts(site.inputs, site.read(layer))
    probe.expect(9)
    for _ in range(9):
        probe.record(
            (torch.randn(3, 600, mambas.WIDTH),), {}, torch.zeros(3, 600, mambas.WIDTH), None
        )
    assert added == []
    probe.done()
    assert added == [(1, 600)] * 3


def test_a_fit_that_gains_nothing_says_so(monkeypatch):
    """What autocast once did in silence."""

    def stuck(misses, start, covariance, energy):
        return list(start), 0.5

    monkeypatch.setattr(fit, "fit_rows", stuck)
    model = mambas.Mamba(mambas.WIDTH, 8)
    data = [torch.randn(2, 20, mambas.WIDTH)]
    (site,) = compress_(model, policy=FixedRank(3), method="greedy-fit", data=data).sites
    assert any("fitting gained nothing, the error is 0.5" in note for note in site.notes)
    monkeypatch.undo()
    (site,) = compress_(model, policy=FixedRank(2), method="greedy-fit", data=data).sites
    assert site.notes == ()


def test_a_readout_that_cannot_be_better_says_so(monkeypatch):
    monkeypatch.setattr("compressm.numerics.data_refit", lambda full, reduced, joint: reduced)
    lru = LRU(3, 8)
    (site,) = compress_(
        lru, policy=FixedRank(3), method="empirical-data", data=[torch.randn(2, 20, 3)]
    ).sites
    assert any("the refit on data gained nothing" in note for note in site.notes)


@pytest.mark.parametrize(("room", "kept"), [(2**25, 8), (40 * mambas.WIDTH, 2), (1, 1)])
def test_wide_layers_keep_fewer_samples(room, kept, monkeypatch):
    """Of eight calls of twenty tokens each, as many as there is room for, and never too few."""
    monkeypatch.setattr(samples, "_NARROW", room)
    monkeypatch.setattr(samples.OnSamples, "tokens", 20)
    counts, whole = [], descent.Descent.search

    def seen(self, cut, calls):
        counts.append(len(calls))
        return whole(self, cut, calls)

    monkeypatch.setattr(descent.Descent, "search", seen)
    layer = LinearAttention(mambas.WIDTH, 6, heads=2, value_dim=3)
    data = [torch.randn(1, 20, mambas.WIDTH) for _ in range(8)]
    compress_(layer, policy=FixedRank(3), method="elimination-fit", data=data)
    assert counts == [kept]
