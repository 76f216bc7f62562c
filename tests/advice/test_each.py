"""Layers that are cut alone, and each as far as it can go."""

import copy
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import compressm
from compressm import Budget, advise
from compressm.advice.each import Plan, cut_alone, descend, first_that_fits
from compressm.errors import InputError
from compressm.nn import LRU, state_dims
from tests.advice.models import STATES, Scene
from tests.faults.fingerprint import differences, fingerprint


@pytest.fixture(scope="module")
def scene():
    return Scene()


def needs(model, *states):
    """A loss that rises by one for each state that a layer has less than it needs."""

    def evaluate():
        have = state_dims(model).values()
        return {"loss": 1.0 + sum(max(0, n - h) for n, h in zip(states, have, strict=True))}

    return evaluate


def test_layers_alone_are_what_their_lines_do_and_leave_nothing(scene):
    roots = {"model": scene.model, "optimizer": scene.optimizer}
    before = fingerprint(roots)
    found = advise(
        scene.model, scene.optimizer, evaluate=scene.evaluate, data=scene.data, each_layer=True,
        rounds=1,
    )  # fmt: skip
    assert differences(before, fingerprint(roots)) == []
    first, second = state_dims(scene.model)
    for site, other in ((first, second), (second, first)):
        (layer,) = (layer for layer in found.layers if layer.site == site)
        assert [cut.states for cut in layer.alone["auto"]] == [
            {site: rank, other: STATES} for rank in (8, 4, 2)
        ]
        for cut in layer.alone["auto"]:
            model = copy.deepcopy(scene.model)
            names = {"model": model, "optimizer": None, "data": scene.data}
            event = eval(cut.command, {"compressm": compressm, **names})
            assert {change.site: change.after for change in event.sites} == cut.states
            assert event.parameters_after == cut.parameters
            shown, scene.model = scene.model, model
            try:
                assert cut.figures.loss == scene.evaluate()["loss"]
            finally:
                scene.model = shown
    assert len(json.loads(found.to_json())["layers"][0]["alone"]["auto"]) == 3
    assert "Each layer cut alone" in str(found)
    assert "½" in str(found)


def test_each_goes_as_far_as_it_can():
    model = nn.Sequential(LRU(2, 64), LRU(2, 64))
    evaluate = needs(model, 37, 5)
    whole = advise(model, evaluate=evaluate, budget=Budget(loss=0))
    assert min(whole.best.states.values()) >= 37
    assert any("alone would cost was not looked at (each_layer)" in note for note in whole.notes)
    found = advise(model, evaluate=evaluate, budget=Budget(loss=0), each_layer=True)
    assert dict(found.best.states) == {"0": 40, "1": 8}
    assert "(each layer by itself)" in found.verdict
    policy = "compressm.LayerRanks({'0': 40, '1': 8})"
    assert found.best.command == f"compressm.compress_(model, policy={policy})"
    alone = {layer.site: layer.alone["auto"] for layer in found.layers}
    held = {site: [cut.total_states - 64 for cut in cuts] for site, cuts in alone.items()}
    assert held == {"0": [32], "1": [32, 16, 8, 4]}
    lines = [line.split() for line in str(found).splitlines()]
    assert ["0", "–", "32:", "+5.0000"] in lines
    assert ["1", "8:", "+0.0000", "4:", "+1.0000"] in lines


def test_within_a_size_the_layers_that_cost_least_go_first():
    model = nn.Sequential(LRU(2, 64), LRU(2, 64))
    budget = Budget(state_bytes=8 * 80)
    found = advise(model, evaluate=needs(model, 60, 4), budget=budget, each_layer=True)
    assert dict(found.best.states) == {"0": 64, "1": 16}
    assert found.best.loss == 1.0


def test_a_layer_that_no_data_reach_does_not_keep_the_others_from_a_rank():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = LRU(3, 32), LRU(3, 40)

        def forward(self, u):
            return self.used(u)

    model = Half()
    found = advise(
        model,
        data=[torch.randn(2, 12, 3)],
        evaluate=lambda: float(model.used.state_dim >= 5),
        budget=Budget(metric=0.5),
        each_layer=True,
        rounds=1,
    )
    assert dict(found.best.states) in ({"used": n, "spare": 40} for n in (5, 6))
    assert {layer.site: len(layer.alone["auto"]) for layer in found.layers} == {
        "used": 3,
        "spare": 0,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"each_layer": True}, "each_layer: it needs something that evaluates"),
        ({"each_layer": True, "evaluate": lambda: 1.0, "uniform": True}, "have one size"),
        ({"each_layer": 3}, "each_layer"),
    ],
)
def test_what_cannot_be_is_refused(scene, options, message):
    with pytest.raises(InputError, match=message):
        advise(scene.model, **options)


@dataclass(frozen=True)
class Seen:
    unseen: str = ""
    state_dim: int = 40


def test_halves_until_one_does_not_hold():
    def cut(rank):
        return None if rank == 20 else compressm.advice.CutAdvice(
            method="", size="", states={"a": max(rank, 4)}, parameters=0, state_bytes=0, memory_mb=0
        )  # fmt: skip

    def states(**options):
        settings = {"fewest": 1, "holds": lambda _: True, "depth": None, **options}
        return [found.total_states for found in cut_alone(Seen(), look=cut, **settings)]

    assert states() == [10, 5, 4]  # 20 cannot be made; 2 and 1 come to the same as 4
    assert states(fewest=8) == [10]
    assert states(holds=lambda found: found.total_states > 6) == [10, 5]
    assert states(depth=1) == [10]
    assert cut_alone(Seen(unseen="no token"), 1, cut, lambda _: True, None) == []


LADDER = [
    Plan(states={"a": 16, "b": 16}, cost=0.0),
    Plan(states={"a": 16, "b": 8}, cost=0.1),
    Plan(states={"a": 8, "b": 8}, cost=0.5),
    Plan(states={"a": 8, "b": 2}, cost=2.0),
]


@pytest.mark.parametrize(("need_a", "need_b"), [(8, 5), (12, 8), (4, 2), (1, 1), (9, 16)])
def test_down_the_ladder_and_between_its_steps(need_a, need_b):
    tried = {}

    def holds(states):
        tried[tuple(states.values())] = states["a"] >= need_a and states["b"] >= need_b
        return tried[tuple(states.values())]

    descend(LADDER, holds)
    assert len(tried) <= 7
    kept = [sum(states) for states, held in tried.items() if held]
    best = {(8, 5): 13, (12, 8): 20, (4, 2): 10, (1, 1): 10, (9, 16): None}[need_a, need_b]
    assert min(kept, default=None) == best


def test_the_largest_that_fits():
    assert first_that_fits(LADDER, lambda states: sum(states.values()) <= 21) == {"a": 13, "b": 8}
    assert first_that_fits(LADDER, lambda states: sum(states.values()) <= 10) == {"a": 8, "b": 2}
    assert first_that_fits(LADDER, lambda states: sum(states.values()) <= 9) is None
    assert first_that_fits(LADDER, lambda _: True) is None
