"""What an advice says is what a cut does, and the model is bit for bit as it was."""

import copy
import json
import math

import pytest
import torch
from torch import nn

import compressm
from compressm import Budget, advise, compress_
from compressm.errors import InputError
from compressm.nn import LRU, state_dims
from tests.advice.models import STATES, Scene
from tests.faults.fingerprint import differences, fingerprint


@pytest.fixture(scope="module")
def scene():
    return Scene()


@pytest.fixture(scope="module")
def advice(scene):
    """Of two methods, evaluated and timed."""
    return advise(
        scene.model,
        scene.optimizer,
        evaluate=scene.evaluate,
        data=scene.data,
        methods=["auto", "modes-data"],
        budget=Budget(loss=0.05),
        rounds=2,
    )


def test_everything_is_bit_for_bit_as_it_was(scene):
    roots = {"model": scene.model, "optimizer": scene.optimizer}
    scene.model.train()
    before = fingerprint(roots)
    advise(
        scene.model,
        scene.optimizer,
        evaluate=scene.evaluate,
        data=scene.data,
        methods=["gradient-data", "empirical-data"],
        budget=Budget(loss=0.01, parameters=900),
        ranks=[8, 2],
        tolerances=[0.1],
        rounds=1,
    )
    assert differences(before, fingerprint(roots)) == []


@pytest.mark.parametrize("stop", [3, 5])
def test_a_failure_in_the_middle_leaves_nothing_either(scene, stop):
    roots = {"model": scene.model, "optimizer": scene.optimizer}
    before, calls = fingerprint(roots), []

    def breaks():
        calls.append(state_dims(scene.model))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        advise(scene.model, scene.optimizer, evaluate=breaks, data=scene.data)
    assert len({tuple(states.values()) for states in calls}) == stop  # the model was cut
    assert differences(before, fingerprint(roots)) == []


def test_every_row_is_what_its_line_does(scene, advice):
    assert len({cut.size for cut in advice.cuts}) > 4
    assert set(advice.methods) == {"auto", "modes-data"}
    for cut in advice.cuts:
        names = {"optimizer": None, "data": scene.data, "compressm": compressm}
        names["model"] = model = copy.deepcopy(scene.model)
        event = eval(cut.command, names)
        assert {site.site: site.after for site in event.sites} == dict(cut.states)
        assert event.parameters_after == cut.parameters
        held = sum(layer.state_bytes * cut.states[layer.site] for layer in advice.layers)
        assert cut.state_bytes == held
        assert cut.memory_mb == pytest.approx((_weights(model) + held) / 1e6)
        shown, scene.model = scene.model, model
        try:
            found = scene.evaluate()
        finally:
            scene.model = shown
        assert cut.loss == found["loss"]
        assert cut.metric == found["accuracy"]
        assert cut.milliseconds > 0


def _weights(model):
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def test_one_measurement_for_all_sizes_and_methods(scene, monkeypatch):
    from compressm.calibration import Calibration

    seen = []
    run = Calibration.run
    monkeypatch.setattr(Calibration, "run", lambda self, *args: seen.append(1) or run(self, *args))
    found = advise(scene.model, data=scene.data, methods=["empirical", "gradient"], ranks=[8, 4, 2])
    assert len(found.cuts) == 6
    # And one look at what each cut does to the layers' outputs.
    assert len(seen) == 1 + len(found.cuts)


def test_the_budget_chooses_the_smallest_that_holds(advice):
    holding = [cut for cut in advice.cuts if cut.loss - advice.present.loss <= 0.05]
    assert advice.best in holding
    assert advice.best.memory_mb == min(cut.memory_mb for cut in holding)
    assert all(cut.breaks == (() if cut in holding else ("loss",)) for cut in advice.cuts)
    assert f"Cut {1 + advice.cuts.index(advice.best)} holds loss=+0.05" in advice.verdict


def test_limits_on_size_take_the_most_states_within_them(scene):
    budget = Budget(state_bytes=8 * 2 * 11)
    found = advise(scene.model, data=scene.data, budget=budget, ranks=[8, 4])
    assert max(found.best.states.values()) == 11
    assert advise(scene.model, budget="parameters=0.7k").best.parameters <= 700
    held = advise(scene.model, data=scene.data, budget=Budget(memory_mb=50), ranks=[8])
    assert held.best is None
    assert "No cut is needed for the budget: the model holds memory_mb=50 as it is" in held.verdict
    assert [cut.size for cut in held.cuts] == ["rank 8"]


def test_the_largest_rank_within_a_size_whatever_else_the_model_holds():
    mixed = nn.Sequential(LRU(3, 64), LRU(3, 32))
    mixed.half = nn.Linear(100, 100).to(torch.bfloat16)
    mixed.register_buffer("table", torch.zeros(20_000, dtype=torch.float64))
    sizes = advise(mixed, ranks=[34, 33, 3])
    for larger, cut in ((sizes.cuts[0], sizes.cuts[1]), (sizes.present, sizes.cuts[2])):
        for name in ("memory_mb", "parameters", "state_bytes"):
            limit = getattr(cut, name)
            found = advise(mixed, budget=Budget(**{name: limit}), tolerances=[], ranks=[1])
            assert getattr(found.best, name) == limit
            assert found.best.states == cut.states
            assert getattr(larger, name) > limit


def test_limits_that_nothing_reaches_or_that_exclude_each_other(scene):
    far = advise(scene.model, scene.optimizer, budget=Budget(parameters=5), ranks=[8, 1])
    assert far.best is None
    assert "reaches parameters=5 (the least is" in far.verdict
    far = advise(scene.model, scene.optimizer, budget=Budget(parameters=5), ranks=[8])
    assert "with 1 state (rank 1))" in far.verdict  # not even the smallest that there is
    both = advise(
        scene.model,
        scene.optimizer,
        evaluate=lambda: float(sum(state_dims(scene.model).values())),
        budget=Budget(metric=4, state_bytes=8 * 8),
    )
    assert both.best is None
    assert "metric holds down to 14 states" in both.verdict
    assert "state_bytes holds from 4 states" in both.verdict


def test_nothing_to_be_gained_is_said():
    torch.manual_seed(0)
    heavy = nn.Sequential(LRU(4, 6), nn.Linear(4, 20_000))
    u = [torch.randn(2, 8, 4)]
    found = advise(heavy, data=u, evaluate=lambda: 1.0, budget=Budget(metric=0.1), rounds=1)
    smallest = min(found.cuts, key=lambda cut: cut.memory_mb)
    slow = smallest.time_ratio > 0.95
    assert found.verdict.startswith("Nothing is to be gained here") == slow
    assert (found.best is None) == slow
    untimed = advise(heavy)
    assert untimed.verdict.startswith("Nothing is to be gained here: even 1 state")
    bad = advise(heavy, evaluate=lambda: float(heavy[0].state_dim == 6), budget=Budget(metric=0.5))
    assert bad.verdict.startswith("Nothing is to be gained here: no cut that was looked at reaches")
    none = advise(heavy, evaluate=lambda: 1.0, budget=Budget(metric=0.1))
    assert none.verdict.startswith("Nothing is to be gained here: 1 state (rank 1) would have")
    assert none.best is None
    assert "chosen" not in str(none.table)
    single = advise(LRU(4, 1))
    assert single.cuts == ()
    assert "no layer can be made smaller" in single.verdict
    assert "Cannot be cut: (model): it has 1 state, the fewest that it can have." in single.notes


def test_a_layer_that_no_data_reach_is_named():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = LRU(3, 8), LRU(3, 8)

        def forward(self, u):
            return self.used(u)

    found = advise(Half(), data=[torch.randn(2, 12, 3)], tolerances=[0.3], ranks=[4], rounds=1)
    reason = {layer.site: layer.reason for layer in found.layers}
    assert reason["used"] is None
    assert "nothing was measured" in reason["spare"]
    assert any(note.startswith("Cannot be cut: spare") for note in found.notes)
    assert any("rank 4" in note and "rest on nothing" in note for note in found.notes)
    assert all(cut.states["spare"] == 8 for cut in found.cuts)
    assert found.cuts


def test_an_optimizer_that_was_not_given_is_no_matter(scene):
    before = fingerprint({"model": scene.model, "optimizer": scene.optimizer})
    assert len(advise(scene.model, ranks=[8, 4]).cuts) == 2
    after = fingerprint({"model": scene.model, "optimizer": scene.optimizer})
    assert differences(before, after) == []


def test_where_no_cut_can_be_made_the_reason_is_raised():
    shared = LRU(3, 8)
    outside = nn.Sequential(LRU(3, 8))
    outside[0].nu_log = shared.nu_log
    with pytest.raises(InputError, match="is shared with LRU"):
        advise(shared)


def test_what_was_not_looked_at_is_said(scene):
    found = advise(scene.model, ranks=[4])
    assert any("were not evaluated" in note for note in found.notes)
    assert any("No step was timed" in note for note in found.notes)
    assert any("not looked at: published, " in note for note in found.notes)
    assert found.present.loss is None
    assert found.cuts[0].error is not None
    assert "rise:" not in found.legend  # there is no such column
    assert "error:" in found.legend


def test_a_loss_of_the_data_stands_in(scene):
    found = advise(scene.model, data=scene.data, ranks=[8], rounds=1)
    with torch.no_grad():
        losses = [float(scene.loss(scene.model.eval(), batch)) for batch in scene.batches]
    assert found.present.loss == pytest.approx(math.fsum(losses) / len(losses))
    assert found.curve() == sorted([(2 * STATES, found.present.loss), (16, found.cuts[0].loss)])


def test_a_loss_that_is_no_number_holds_nothing(scene):
    full = sum(state_dims(scene.model).values())

    def evaluate():
        return {"loss": 1.0 if sum(state_dims(scene.model).values()) == full else math.nan}

    found = advise(scene.model, evaluate=evaluate, budget=Budget(loss=9), ranks=[8])
    assert found.cuts[0].loss is None
    assert found.cuts[0].breaks == ("loss",)
    json.loads(found.to_json())


def test_text_and_json_say_the_same(advice):
    text, values = str(advice), json.loads(advice.to_json())
    assert [cut["command"] for cut in values["cuts"]] == [cut.command for cut in advice.cuts]
    assert values["curve"]["auto"][-1] == [2 * STATES, advice.present.loss]
    assert values["budget"] == {"loss": 0.05}
    for number, cut in enumerate(advice.cuts, start=1):
        assert f"{number}: {cut.command}" in text
        assert f"{cut.parameters:,}" in text
    assert advice.verdict in text
    assert "blocks.0" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": Budget(loss=0.1)}, "budget: loss=.* give evaluate="),
        ({"budget": Budget(milliseconds=3)}, "needs a step to time; give step= or data="),
        ({"budget": {"loss": 1}}, "budget: expected a Budget"),
        ({"budget": "los=1"}, "budget: got 'los=1' .did you mean 'loss'"),
        ({"budget": Budget(loss=0.1), "evaluate": lambda: 1.0}, "needs a finite loss"),
        ({"budget": Budget(metric=1), "evaluate": lambda: math.nan}, "needs a finite metric"),
        ({"evaluate": lambda: {"a": 1, "b": 2}}, "evaluate: expected a number, or a dict"),
        ({"evaluate": lambda: {"loss": None}}, "evaluate: loss: expected a number, got None"),
        ({"evaluate": lambda: None}, "evaluate: expected a number"),
        ({"evaluate": 3}, "evaluate: expected a callable"),
        ({"step": 3}, "step: expected a callable"),
        ({"methods": "auto"}, "methods: expected a list of names"),
        ({"methods": []}, "methods: expected a list of names"),
        ({"methods": ["magic"]}, "magic"),
        ({"ranks": [0]}, "ranks: expected an integer >= 1"),
        ({"tolerances": [2]}, "tolerances: expected 0 <= tolerances < 1"),
        ({"batch": 0}, "batch"),
        ({"rounds": 0}, "rounds"),
        ({"min_rank": 0}, "min_rank"),
    ],
)
def test_bad_input_is_one_clear_error(scene, settings, message):
    roots = {"model": scene.model}
    before = fingerprint(roots)
    with pytest.raises(InputError, match=message):
        advise(scene.model, scene.optimizer, **settings)
    assert differences(before, fingerprint(roots)) == []


def test_a_path_is_no_model():
    with pytest.raises(InputError, match="compressm advise PATH"):
        advise("runs/digits-lru")


def test_sizes_are_as_constrained(scene):
    found = advise(scene.model, scene.optimizer, min_rank=3, multiple_of=4)
    assert {n for cut in found.cuts for n in cut.states.values()} <= {4, 8, 12, STATES}
    assert any("FixedRank(8, min_rank=3, multiple_of=4)" in cut.command for cut in found.cuts)
    event = compress_(
        copy.deepcopy(scene.model), policy=compressm.FixedRank(2, min_rank=3, multiple_of=4)
    )
    assert dict(found.cuts[-1].states) == {site.site: site.after for site in event.sites}


@pytest.mark.parametrize("name", ["error", "ms", "states", "rise", "holds", "bytes"])
def test_a_metric_may_be_called_like_a_column(scene, name):
    evaluate = {"loss": 0.5, name: 0.1234}
    found = advise(scene.model, evaluate=lambda: evaluate, ranks=[8], data=scene.data, rounds=1)
    columns = found.table.columns
    (now, cut) = (dict(zip(columns, row, strict=True)) for row in found.table.rows)
    assert now[f"metric {name!r}"] == cut[f"metric {name!r}"] == "0.1234"
    assert (now["states"], cut["states"]) == ("16", "8")
    assert cut["error"].endswith("%")


def test_small_and_large_numbers_keep_their_digits(scene):
    values = iter([{"loss": 1.25e-6, "acc": 0.87654}, {"loss": 2.5e-6, "acc": -1.5e30}])
    found = advise(scene.model, evaluate=lambda: next(values), ranks=[8])
    now, cut = (dict(zip(found.table.columns, row, strict=True)) for row in found.table.rows)
    assert (now["loss"], cut["loss"], cut["rise"]) == ("1.250e-06", "2.500e-06", "+1.250e-06")
    assert (now["acc"], cut["acc"]) == ("0.8765", "-1.5e+30")


def _by_states(scene, values):
    """An evaluation that says this of the states of all layers together; else no number."""
    return lambda: {"loss": values.get(sum(state_dims(scene.model).values()), math.nan)}


def test_after_which_the_loss_is_no_number_is_said_and_never_advised(scene):
    evaluate = _by_states(scene, {32: 1.0})
    found = advise(scene.model, evaluate=evaluate, ranks=[8], budget=Budget(loss=1))
    assert "after every cut the loss is no finite number" in found.verdict
    found = advise(scene.model, evaluate=evaluate, ranks=[8], budget=Budget(parameters=900))
    assert found.best is None
    assert found.cuts[0].holds
    assert "those that hold parameters=900 leave a model whose loss is no" in found.verdict


def test_within_a_size_the_loss_decides(scene):
    evaluate = _by_states(scene, {32: 1.0, 16: 1.7, 8: 1.2, 4: 1.4})
    found = advise(scene.model, evaluate=evaluate, ranks=[8, 4, 2], budget=Budget(parameters=900))
    assert max(found.best.states.values()) == 4
    assert "Right after it the loss goes from 1 to 1.2." in found.verdict


def test_of_equal_sizes_the_one_that_costs_least_is_chosen(scene):
    asked = ["auto", "published"]
    calls = iter([1.0, 1.5, 1.1])  # as it is, auto, published
    found = advise(
        scene.model,
        evaluate=lambda: {"loss": next(calls)},
        methods=asked,
        ranks=[8],
        budget=Budget(loss=1),
    )
    assert found.best.method == "published"


def test_as_long_as_all_sizes_hold_smaller_ones_are_looked_at():
    large = nn.Sequential(LRU(2, 128))
    found = advise(large, evaluate=lambda: 1.0, budget=Budget(metric=0.1))
    assert found.best.total_states == 1
    found = advise(large, evaluate=lambda: 1.0, budget=Budget(metric=0.1), ranks=[64, 32])
    assert found.best.total_states == 32  # somebody said which sizes count


def test_luck_is_called_luck(scene):
    evaluate = _by_states(scene, {32: 1.0, 16: 3.0, 8: 1.0, 4: 3.0})
    found = advise(scene.model, evaluate=evaluate, ranks=[8, 4, 2], budget=Budget(loss=0.5))
    assert found.best.total_states == 8
    numbers = [1 + i for i, cut in enumerate(found.cuts) if cut.total_states > 8]
    assert f"But cut{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}" in found.verdict


def test_where_no_cut_was_made_the_reason_is_the_right_one(scene):
    found = advise(scene.model, ranks=[500])
    assert "no size that was asked for is smaller than what there is" in found.verdict
    found = advise(nn.Sequential(LRU(4, 1)), budget=Budget(parameters=3))
    assert "no layer can be made smaller, and the model has parameters=23" in found.verdict
