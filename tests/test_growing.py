"""Models that grow: once, in a loop under a policy, with a guard, averages, resumed runs."""

import copy
import math

import pytest
import torch
from torch import nn

from compressm import (
    Compressor,
    Elastic,
    Event,
    FixedRank,
    Guard,
    Schedule,
    compress_,
    grow_,
    load_compressed,
    resize_,
)
from compressm.errors import InputError, OptimizerError
from compressm.nn import LRU, S4D, SequenceClassifier, state_dims
from compressm.nn.matrix_state import GatedDeltaNet
from compressm.storage.bits import same
from tests.families.mambas import HAVE_TRANSFORMERS, language_model

INPUTS = torch.randn(4, 16, 1, generator=torch.Generator().manual_seed(1))
# Everything that the initial spectra of these models ask for: a layer is always full.
GREEDY = Elastic(1e-9, full=0.1, factor=1.5)


def build(layer="lru", states=8, depth=2):
    torch.manual_seed(0)
    return SequenceClassifier(
        input="real",
        features=1,
        width=4,
        state_dim=states,
        depth=depth,
        classes=3,
        dropout=0.0,
        layer=layer,
    )


def train(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        model(INPUTS).square().sum().backward()
        optimizer.step()


def trained(make=torch.optim.AdamW, **options):
    model = build(**options)
    optimizer = make(model.parameters(), lr=1e-3)
    train(model, optimizer, 3)
    return model, optimizer


def test_one_layer_grows_and_the_event_says_so():
    model, optimizer = trained()
    expected, name = model(INPUTS), "encoder.blocks.1.layer"
    before = sum(p.numel() for p in model.parameters())
    event = grow_(model, optimizer, {name: 12})
    torch.testing.assert_close(model(INPUTS), expected)
    assert list(state_dims(model).values()) == [8, 12]
    assert event.kind == "grow"
    assert [(s.before, s.after) for s in event.sites] == [(8, 8), (8, 12)]
    assert event.sites[1].energy_kept is None
    assert (event.parameters_before, event.parameters_after) == (
        before,
        sum(p.numel() for p in model.parameters()),
    )
    assert event.seconds > 0
    assert Event.from_json(event.to_json()) == event
    assert f"grow (encoder.blocks.0.layer 8 → 8, {name} 8 → 12)" in str(event)
    assert grow_(model, optimizer, {name: 12}).kind == "kept"


def test_the_same_seed_draws_the_same_and_no_global_number_is_drawn():
    models = [build() for _ in range(3)]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        grow_(model, sizes=12, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    first, second, third = (model.state_dict() for model in models)
    assert same(first, second)
    assert not same(first, third)


def test_new_poles_come_from_the_range_of_the_layer_and_lie_apart():
    torch.manual_seed(0)
    layer = LRU(4, 6, r_min=0.5, r_max=0.9)
    grow_(layer, sizes=24)
    radius = torch.exp(-layer.nu_log.exp())
    assert bool(((radius > 0.499) & (radius < 0.901)).all())
    drawn = LRU(4, 24, r_min=0.5, r_max=0.9)
    nearest = []
    for one in (layer, drawn):
        points = torch.stack([one.nu_log, one.theta_log.exp()], -1)
        nearest.append(torch.cdist(points, points).fill_diagonal_(math.inf).amin())
    assert nearest[0] > nearest[1]


def test_steps_go_on_and_moments_are_those_of_the_page():
    model, optimizer = trained()
    p = model.encoder.blocks[0].layer.C_re
    square, mean = (optimizer.state[p][key].clone() for key in ("exp_avg_sq", "exp_avg"))
    grow_(model, optimizer, 10)
    state = optimizer.state[model.encoder.blocks[0].layer.C_re]
    assert int(state["step"]) == 3
    assert torch.equal(state["exp_avg"][:, :8], mean)
    assert not state["exp_avg"][:, 8:].any()
    assert torch.equal(state["exp_avg_sq"][:, :8], square)
    usual = square.mean(1, keepdim=True).expand(-1, 2)
    torch.testing.assert_close(state["exp_avg_sq"][:, 8:], usual)


@pytest.mark.parametrize(
    "make", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adamax, torch.optim.NAdam]
)
def test_other_optimizers_go_on(make):
    model, optimizer = trained(make)
    grow_(model, optimizer, 10)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, 2)
    after = model.state_dict()
    assert [n for n in after if torch.equal(before[n], after[n])] == []


def test_the_delta_rule_grows_by_keys_of_zero_and_soft_queries():
    """Exact to rounding, and both sides move within a few steps of Adam."""
    torch.manual_seed(0)
    layer = GatedDeltaNet(8, 4, heads=2).double()
    u = torch.randn(3, 12, 8, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    layer(u).square().sum().backward()
    optimizer.step()
    expected = layer(u).detach()
    grow_(layer, optimizer, 6)
    torch.testing.assert_close(layer(u), expected, rtol=1e-12, atol=1e-12)
    keys, queries = (p.weight.view(2, 6, 8)[:, 4:] for p in (layer.k_proj, layer.q_proj))
    assert not keys.any()
    assert 0 < float(queries.detach().abs().max()) < 1e-6
    for _ in range(3):
        optimizer.zero_grad()
        layer(u).square().sum().backward()
        optimizer.step()
    assert float(layer.k_proj.weight.view(2, 6, 8)[:, 4:].detach().abs().mean()) > 1e-3


def test_averages_grow_along():
    model, optimizer = trained()
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model, optimizer, 2)
    average.update_parameters(model)
    expected = average(INPUTS).detach()
    grow_(model, optimizer, 11, ema=[average])
    assert list(state_dims(average.module).values()) == [11, 11]
    torch.testing.assert_close(average(INPUTS), expected)


def test_a_layer_without_values_is_refused():
    with torch.device("meta"):
        layer = LRU(4, 8)
    with pytest.raises(InputError, match="meta device"):
        grow_(layer, sizes=12)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"encoder.blocks.9.layer": 12}, "no layer 'encoder.blocks.9.layer'; it has"),
        ({"encoder.blocks.0.layer": 12, "encoder.blocks.1.layer": 6}, r"compress_.*FixedRank\(6\)"),
        (4, "has 8 states and was to have 4"),
        (2.5, "sizes"),
        (None, r"got nothing; for example grow_\(model, optimizer, 32\)"),
        ({"encoder.blocks.0.layer": "many"}, "sizes: layer"),
    ],
)
def test_sizes_that_cannot_be_meant_change_nothing(sizes, says):
    model, optimizer = trained()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(InputError, match=says):
        grow_(model, optimizer, sizes)
    assert same(before, (model.state_dict(), optimizer.state_dict()))


def test_a_layer_that_no_optimizer_trains_is_refused_before_anything_grows():
    model = build()
    optimizer = torch.optim.Adam(model.encoder.blocks[0].parameters())
    with pytest.raises(OptimizerError):
        grow_(model, optimizer, 12)
    assert list(state_dims(model).values()) == [8, 8]


@pytest.mark.skipif(not HAVE_TRANSFORMERS, reason="needs transformers")
def test_one_layer_that_cannot_grow_keeps_all_from_growing():
    torch.manual_seed(0)
    model = nn.ModuleList([LRU(4, 8), language_model("FalconMamba", 8)])
    with pytest.raises(InputError, match=r"layer '1.*': .* cannot grow: keys and queries are norm"):
        grow_(model, sizes=12)
    assert model[0].state_dim == 8


def test_a_step_that_fails_leaves_model_and_optimizer_as_they_were():
    model, optimizer = trained()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    parameters = list(model.parameters())

    class Full(dict):
        def __setitem__(self, key, value):
            raise MemoryError

    optimizer.state = Full(optimizer.state)
    with pytest.raises(MemoryError):
        grow_(model, optimizer, 12)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert same(before, (model.state_dict(), optimizer.state_dict()))


def test_a_policy_grows_in_a_loop_and_the_loss_goes_on():
    model, optimizer = trained(depth=1)
    compressor = Compressor(model, optimizer, policy=GREEDY, schedule=Schedule.at(2, 4))
    kinds = []
    for _ in range(5):
        train(model, optimizer)
        before = model(INPUTS).detach()
        event = compressor.step()
        torch.testing.assert_close(model(INPUTS), before)
        kinds.append(event and (event.kind, event.sites[0].after))
    assert kinds == [None, ("grow", 12), None, ("grow", 18), None]
    assert compressor.events[0].sites[0].energy_kept == 1
    assert len(compressor.events[0].sites[0].values) == 16


def test_a_run_that_grows_resumes_as_if_it_had_not_stopped():
    def run(model, optimizer, compressor, steps):
        for _ in range(steps):
            train(model, optimizer)
            compressor.step()

    def fresh():
        model, optimizer = trained(depth=1)
        plan = {"policy": GREEDY, "schedule": Schedule.at(1, 3), "method": "real-pairs"}
        return model, optimizer, Compressor(model, optimizer, **plan)

    whole, other = fresh(), fresh()
    run(*whole, 5)
    run(*other, 2)
    saved = [copy.deepcopy(part.state_dict()) for part in other]
    resumed = fresh()
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    run(*resumed, 3)
    assert state_dims(resumed[0]) == state_dims(whole[0]) == {"encoder.blocks.0.layer": 18}
    assert same(resumed[0].state_dict(), whole[0].state_dict())


@pytest.mark.parametrize("recovery", [0, 2])
def test_a_guard_undoes_growth_bit_for_bit(recovery):
    model, optimizer = trained(depth=1)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    scores = iter([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    guard = Guard(lambda: next(scores), max_drop=0.1, recovery_steps=recovery, max_attempts=2)
    compressor = Compressor(model, optimizer, policy=GREEDY, schedule=Schedule.at(1), guard=guard)
    events = []
    for _ in range(6):
        events.append(compressor.step())
        if compressor.pending:
            train(model, optimizer)
    found = [event for event in events if event is not None]
    assert found[-1].kind == "rejected"
    assert [list(a.ranks.values()) for a in found[-1].tried] == [[12], [10]]
    assert same(before, (model.state_dict(), optimizer.state_dict()))


def test_a_run_that_stopped_with_growth_on_trial_undoes_it_when_it_goes_on():
    def fresh():
        model, optimizer = trained(depth=1)
        guard = Guard(lambda: next(scores), max_drop=0.1, recovery_steps=2, max_attempts=1)
        plan = {"policy": GREEDY, "schedule": Schedule.at(1), "guard": guard}
        return model, optimizer, Compressor(model, optimizer, **plan)

    scores = iter([1.0, 1.0])
    model, optimizer, compressor = fresh()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert compressor.step().kind == "trial"
    train(model, optimizer)
    saved = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, compressor)]
    scores = iter([0.0])
    resumed = fresh()
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    assert state_dims(resumed[0]) == {"encoder.blocks.0.layer": 12}
    events = [resumed[2].step() for _ in range(3)]
    assert [event.kind for event in events if event] == ["rejected"]
    assert same(before, (resumed[0].state_dict(), resumed[1].state_dict()))


def test_a_guard_keeps_growth_that_costs_nothing():
    model, optimizer = trained(depth=1)
    event = compress_(model, optimizer, policy=GREEDY, guard=Guard(lambda: 1.0, max_drop=0.0))
    assert (event.kind, event.sites[0].after) == ("grow", 12)


@pytest.mark.skipif(not HAVE_TRANSFORMERS, reason="needs transformers")
def test_a_policy_that_grows_is_refused_at_once_where_a_layer_cannot():
    layer = language_model("FalconMamba", 8)
    with pytest.raises(InputError, match="cannot grow"):
        Compressor(layer, policy=Elastic(0.01), schedule=Schedule.at(5))


def test_one_size_for_all_that_one_configuration_speaks_for():
    model, optimizer = trained()
    compress_(model, optimizer, policy=FixedRank(8))
    grow_(model, optimizer, {"encoder.blocks.0.layer": 10})
    compress_(model, optimizer, policy=Elastic(1e-9, full=0.1, max_rank=12), uniform=True)
    assert list(state_dims(model).values()) == [12, 12]


def test_grown_weights_load_and_events_resize_what_had_that_size():
    model, optimizer = trained()
    events = [grow_(model, optimizer, 10), grow_(model, optimizer, 14)]
    for load in (
        lambda other: load_compressed(other, model.state_dict()),
        lambda other: (resize_(other, events), other.load_state_dict(model.state_dict())),
    ):
        other = build()
        load(other)
        torch.testing.assert_close(other(INPUTS), model(INPUTS), rtol=0, atol=0)
    with pytest.raises(InputError, match="Build the model at the size"):
        resize_(build(states=9), events)


def test_channels_choose_their_own_new_poles():
    torch.manual_seed(0)
    layer = S4D(3, 4)
    with torch.no_grad():
        layer.A_imag[1] = torch.tensor([0.0, 3 * math.pi, 4 * math.pi, 5 * math.pi])
    grow_(layer, sizes=6)
    found = (layer.A_imag.detach() / math.pi).round().sort(1).values.tolist()
    assert found[0] == [0, 1, 2, 3, 4, 5]
    assert found[1] == [0, 1, 2, 3, 4, 5]
