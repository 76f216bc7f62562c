import copy
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from compressm import (
    Compressor,
    EnergyTolerance,
    EventLog,
    FixedFraction,
    FixedRank,
    Schedule,
    WhenSettled,
    compress_,
    measure,
)
from compressm.errors import InputError, OptimizerError, UnstableSystemError
from compressm.nn import LRU, SequenceClassifier, state_dims
from tests.families import mambas


def build(depth=2, states=16):
    return SequenceClassifier(
        input="real", features=1, width=6, state_dim=states, depth=depth, classes=3
    )


def batch():
    return {"inputs": torch.randn(8, 20, 1), "labels": torch.randint(3, (8,))}


def loss_of(model, data):
    return nn.functional.cross_entropy(model(data["inputs"]), data["labels"])


def train_step(model, optimizer):
    optimizer.zero_grad()
    loss = loss_of(model, batch())
    loss.backward()
    optimizer.step()
    return loss.item()


def compressor_for(model, optimizer, **kwargs):
    options = {"policy": FixedFraction(0.75), "schedule": Schedule.spaced(cuts=4, stop=20)}
    return Compressor(model, optimizer, **{**options, **kwargs})


def test_every_due_step_is_acted_on_exactly_once():
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    compressor = compressor_for(model, optimizer)
    fired = []
    for step in range(1, 41):
        train_step(model, optimizer)
        if compressor.step() is not None:
            fired.append(step)
    assert fired == [5, 10, 15, 20]
    assert compressor.finished
    assert [[s.after for s in e.sites] for e in compressor.events] == [
        [12] * 2,
        [9] * 2,
        [7] * 2,
        [6] * 2,
    ]
    assert list(state_dims(model).values()) == [6, 6]


@pytest.mark.parametrize("stride", [1, 3, 7, 19])
def test_it_fires_k_times_whatever_the_interval_of_the_calls(stride):
    model = build()
    compressor = compressor_for(model, None)
    for step in range(stride, 200, stride):
        compressor.step(step)
    assert len(compressor.events) == 4


def test_nothing_due_costs_nothing():
    compressor = compressor_for(build(), None, schedule=Schedule.at(10**9))
    started = time.perf_counter()
    for _ in range(10_000):
        compressor.step()
    assert (time.perf_counter() - started) / 10_000 < 5e-6


def test_a_run_with_all_methods_of_data():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = [batch() for _ in range(2)]
    compressor = compressor_for(
        model, optimizer, method="gradient-data", data=data, loss=loss_of, policy=FixedRank(5)
    )
    for _ in range(8):
        train_step(model, optimizer)
        compressor.step()
    assert list(state_dims(model).values()) == [5, 5]


def test_the_log_holds_every_event(tmp_path):
    model = build()
    path = tmp_path / "deep" / "events.jsonl"
    compressor = compressor_for(model, None, log=path)
    for _ in range(30):
        compressor.step()
    assert EventLog.read(path) == compressor.events
    assert [e.step for e in compressor.events] == [5, 10, 15, 20]
    seen = []
    compressor_for(build(), None, log=seen.append).step(5)
    assert len(seen) == 1


def resumable(path, *steps):
    model = build()
    schedule = Schedule.at(*steps)
    return model, Compressor(model, policy=FixedFraction(0.5), schedule=schedule, log=path)


def steps_in(path):
    return [(e.step, e.sites[0].before) for e in EventLog.read(path)]


@pytest.mark.parametrize("saved_at", [1, 3, 5])
def test_a_log_holds_no_event_twice_after_a_resumption(saved_at, tmp_path):
    """The run was killed at step 6, had written its cuts at 2, 4 and 6, and makes the last anew."""
    path = tmp_path / "events.jsonl"
    _, other = resumable(path, 3, 9)  # an earlier run with the same file
    for _ in range(9):
        other.step()
    earlier = steps_in(path)
    model, compressor = resumable(path, 2, 4, 6)
    for step in range(1, 7):
        compressor.step()
        if step == saved_at:
            state, weights = compressor.state_dict(), copy.deepcopy(model.state_dict())
    assert len(steps_in(path)) == 5
    with path.open("a") as file:
        file.write('{"half a line')
    model, compressor = resumable(path, 2, 4, 6)
    model.load_state_dict(weights)
    compressor.load_state_dict(copy.deepcopy(state))
    alive = [(2, 16), (4, 8), (6, 4)]
    assert steps_in(path) == earlier + [e for e in alive if e[0] <= saved_at]
    for _ in range(6 - saved_at):
        compressor.step()
    assert steps_in(path) == earlier + alive
    assert EventLog.read(path)[-3:] == compressor.events


def test_a_log_that_cannot_be_rewritten_is_a_warning(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    _, compressor = resumable(path, 2)
    state = compressor.state_dict()
    for _ in range(2):
        compressor.step()
    monkeypatch.setattr("compressm.events.write_text", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.warns(UserWarning, match=r"events.jsonl cannot be rewritten"):
        resumable(path, 2)[1].load_state_dict(state)
    assert steps_in(path) == [(2, 16)]


def test_a_resumed_compressor_goes_on_where_it_was():
    torch.manual_seed(4)
    model = build()
    compressor = compressor_for(model, None, select="random")
    for _ in range(12):
        compressor.step()
    state, weights = copy.deepcopy(compressor.state_dict()), copy.deepcopy(model.state_dict())
    for _ in range(12):
        compressor.step()

    other = build()
    resumed = compressor_for(other, None, select="random")
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    for _ in range(12):
        resumed.step()
    assert [(e.step, [s.after for s in e.sites]) for e in resumed.events] == [
        (e.step, [s.after for s in e.sites]) for e in compressor.events
    ]
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_measure_and_compress_agree():
    model = build()
    spectra = measure(model)
    policy = EnergyTolerance(0.2)
    event = compress_(model, policy=policy)
    assert {s.site: s.after for s in event.sites} == policy.plan(spectra)
    for site in event.sites:
        assert site.values == tuple(spectra[site.site].values.tolist())
        # Also where real eigenvalues leave states room for fewer directions than two each.
        assert site.energy_kept == spectra[site.site].energy(site.after)


def snapshot(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


def broken(model, _):
    with torch.no_grad():
        model.encoder.blocks[1].layer.nu_log[0] = -80.0  # |λ| = 1


def orphan(model, optimizer):
    last = model.encoder.blocks[1].layer
    optimizer.param_groups[0]["params"] = [
        p for p in optimizer.param_groups[0]["params"] if p is not last.C_re
    ]
    del optimizer.state[last.C_re]


@pytest.mark.parametrize(
    ("spoil", "error"), [(broken, UnstableSystemError), (orphan, OptimizerError)]
)
def test_an_error_in_one_layer_leaves_every_layer_alone(spoil, error):
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train_step(model, optimizer)
    spoil(model, optimizer)
    before = snapshot(model, optimizer)
    with pytest.raises(error):
        compress_(model, optimizer, policy=FixedRank(4))
    torch.testing.assert_close(snapshot(model, optimizer), before, rtol=0, atol=0)


def test_what_cannot_work_is_said_when_the_compressor_is_built():
    for bad, says in (
        ({"method": "empirical"}, "data"),
        ({"method": "guess"}, "real-pairs"),
        ({"select": "best"}, "largest"),
        ({"loss": loss_of}, "data="),
    ):
        with pytest.raises(InputError, match=says):
            compressor_for(build(), None, **bad)
    with pytest.raises(InputError, match=r"Linear.*LRU"):
        compressor_for(nn.Linear(2, 2), None)


def test_a_bare_layer_is_a_model():
    layer = LRU(3, 8)
    compress_(layer, policy=FixedRank(4))
    assert layer.state_dim == 4


def test_the_loss_barely_moves_when_the_states_cut_do_not_matter():
    """A trained layer of 4 states inside one of 16: the cut finds the 4."""
    model = build(depth=1, states=16)
    layer = model.encoder.blocks[0].layer
    with torch.no_grad():
        layer.B_re[4:] *= 1e-4
        layer.B_im[4:] *= 1e-4
    model.eval()
    data = batch()
    before = loss_of(model, data).item()
    event = compress_(model, policy=EnergyTolerance(1e-2))
    assert event.sites[0].after == 4
    assert event.sites[0].error < 1e-2
    assert loss_of(model, data).item() == pytest.approx(before, abs=1e-3)


def test_python_optimised_mode_changes_nothing():
    """`python -O` drops asserts; none of them may carry behaviour."""
    code = (
        "import torch, compressm; from compressm.nn import LRU; torch.manual_seed(0);"
        "layer = LRU(3, 8); compressm.compress_(layer, policy=compressm.FixedRank(4));"
        "print(layer.state_dim)"
    )
    out = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "4", out.stderr


class Hybrid(nn.Module):
    """Two families, which mean different methods by "auto"."""

    def __init__(self):
        super().__init__()
        self.lru = LRU(mambas.WIDTH, 8)
        self.mamba = mambas.Mamba(mambas.WIDTH, 8)

    def forward(self, inputs):
        return self.mamba(self.lru(inputs))


@pytest.mark.parametrize(
    ("given", "methods"),
    [
        ({}, ("real-pairs-h2", "magnitude")),
        ({"data": [torch.randn(2, 9, mambas.WIDTH)]}, ("empirical-data", "greedy-fit")),
    ],
)
@pytest.mark.parametrize(("rank", "kind"), [(4, "cut"), (8, "kept")])
def test_events_name_the_methods_that_ran(given, methods, rank, kind):
    event = compress_(Hybrid(), policy=FixedRank(rank), **given)
    assert (event.kind, event.method) == (kind, ", ".join(methods))
    assert tuple(site.method for site in event.sites) == methods


def test_measurements_name_their_method_too():
    model = build(depth=2)
    schedule = WhenSettled(every=1, latest=9)
    compressor = compressor_for(model, None, schedule=schedule, method="modes-h2")
    event = compressor.step()
    assert (event.kind, event.method) == ("measured", "modes-h2")
