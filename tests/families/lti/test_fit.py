"""Methods that fit poles, inputs and readout of a cut layer to its output."""

import copy

import pytest
import torch

from compressm import FixedRank, compress_
from compressm.edits import Project, Reset, Selection
from compressm.errors import InputError
from compressm.families import find_sites
from compressm.families.lti.input_samples import InputSamples
from compressm.families.lti.refits import fit
from compressm.nn import LRU, S4D, S5, LinOSS

F64 = torch.float64


def batches(count=3, length=60, width=4):
    return [torch.randn(6, length, width, dtype=F64).cumsum(1) for _ in range(count)]


def loss(model, batch):
    return model(batch)[:, -1].square().mean()


def scan(layer, u):
    """The output without what goes past the states."""
    return layer(u).detach() - layer.D.detach() * u


@pytest.mark.parametrize("method", ["gradient", "modes"])
@pytest.mark.parametrize("layer", [LRU, S5, S4D])
def test_the_fit_leaves_less_of_an_error_and_tells_it(layer, method):
    torch.manual_seed(0)
    full, data = layer(4, 12).double(), batches()
    expected, errors = torch.cat([scan(full, u) for u in data]), {}
    for name in (f"{method}-data", f"{method}-fit"):
        cut = copy.deepcopy(full)
        (site,) = compress_(cut, policy=FixedRank(3), method=name, data=data, loss=loss).sites
        found = torch.cat([scan(cut, u) for u in data])
        errors[name] = float((found - expected).norm() / expected.norm())
        assert site.after == 3
    assert site.data_error == pytest.approx(errors[f"{method}-fit"], rel=1e-3)
    assert errors[f"{method}-fit"] < 0.95 * errors[f"{method}-data"]


def drafted(layer, method, data):
    """What a cut to three states would be, and what it would change."""
    adapter = find_sites(layer)[""].adapter
    observer = adapter.observe(layer, method, given="data")
    for u in data:
        observer.probe.record((u,), {}, layer(u), None)
    draft = observer.measure().reduce(3, select="largest", generator=torch.Generator())
    for u in data:
        draft.probe.record((u,), {}, layer(u), None)
    draft.finish()
    return draft, [type(edit.transport) for edit in draft.edits()]


def test_modes_that_have_moved_are_new_ones_and_others_stay_what_they_are(monkeypatch):
    torch.manual_seed(0)
    layer, data = LRU(4, 12).double(), batches()
    draft, rules = drafted(layer, "modes-fit", data)
    assert rules == [Reset, Project, Project]
    assert draft.notes == ()
    monkeypatch.setattr("compressm.numerics.lti.output_fit.descend", lambda *_: None)
    draft, rules = drafted(layer, "modes-fit", data)
    assert rules == [Selection, Selection]
    assert "the fit to outputs gained nothing: the error is" in draft.notes[0]
    kept = layer.nu_log.detach()[draft.reduction.indices]
    torch.testing.assert_close(draft.edits()[0].values[0], kept)


def test_a_layer_whose_outputs_nobody_saw_is_not_fitted():
    torch.manual_seed(0)
    layer, data = LRU(4, 12).double(), batches()
    adapter = find_sites(layer)[""].adapter
    observer = adapter.observe(layer, "modes-fit", given="data")
    observer.probe.record((data[0],), {}, layer(data[0]), None)
    draft = observer.measure().reduce(3, select="largest", generator=torch.Generator())
    draft.finish()
    assert draft.notes == (
        "not fitted: in the batches of the first process, no token reached it in the calibration "
        "batches, or all were masked",
    )
    assert draft.reduction.indices is not None


def test_samples_are_sequences_in_an_order_of_their_own():
    layer = LRU(2, 3)
    adapter = find_sites(layer)[""].adapter
    long, short = torch.randn(5, 9, 2), torch.randn(3, 4, 2)
    mask = torch.ones(5, 9)
    mask[1, 6:] = 0
    found = []
    for calls in (
        [(long, mask), (short, None)],
        [(short.flip(0), None), (long.flip(0), mask.flip(0))],
    ):
        probe = InputSamples(adapter.inputs, layer, tokens=1000)
        probe.expect(2)
        for u, counts in calls:
            probe.record((u, counts), {}, None, None)
        probe.done()
        found.append(probe.sequences())
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    u, counts = found[0]
    assert u.shape == (8, 9, 2)
    assert int(counts.sum()) == 5 * 9 - 3 + 3 * 4
    few = InputSamples(adapter.inputs, layer, tokens=40)
    few.expect(2)
    few.record((long, mask), {}, None, None)
    assert len(few.sequences()[0]) == 2


def test_many_states_leave_time_for_fewer_tokens():
    adapter = find_sites(S4D(4, 8))[""].adapter
    few, many = (adapter.read(S4D(width, 8)) for width in (4, 4096))
    assert fit._tokens(few, 16384, 2**20) == 16384
    assert fit._tokens(many, 16384, 2**20) == 1024


def test_layers_that_can_only_select_have_no_fit_and_say_why():
    data = batches()
    with pytest.raises(InputError, match="got 'modes-fit'; frequency and damping"):
        compress_(LinOSS(4, 8).double(), policy=FixedRank(3), method="modes-fit", data=data)
