"""What users give is checked when it is given, and the message says what to give instead."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressm import (
    Compressor,
    EnergyTolerance,
    FixedFraction,
    FixedRank,
    Guard,
    MetricBudget,
    Schedule,
    WhenSettled,
    compress_,
    measure,
)
from compressm.arguments import real, shown, whole
from compressm.errors import InputError, OptimizerError
from compressm.nn import LRU
from compressm.policies import ParameterBudget, StepTimeBudget

GUARD = Guard(lambda: 1.0, max_drop=1.0)


def build():
    return LRU(3, 8)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": 0.1}, r"policy: expected a Policy, got 0\.1; for example EnergyTolerance"),
        ({"policy": FixedRank}, "policy: expected a Policy, got the class FixedRank"),
        ({"policy": "energy"}, "policy: expected a Policy, got 'energy'"),
        ({"policy": None}, "policy: expected a Policy, got None"),
        ({"guard": lambda: 0.5}, r"guard: expected a Guard.*Guard\(evaluate, max_drop"),
        ({"guard": 0.5}, "guard: expected a Guard"),
        ({"ema": build()}, "ema: expected a list of averaged models, got a LRU"),
        ({"ema": None}, "ema: expected a list of averaged models, got None"),
        ({"ema": [0.999]}, r"ema: expected a Module, got 0\.999"),
        ({"seed": "zero"}, "seed: expected an integer, got 'zero'"),
        ({"seed": 1.5}, "seed: expected an integer"),
        ({"seed": True}, "seed: expected an integer, got True"),
        ({"method": None}, "method: expected a str, got None"),
        ({"method": ["auto"]}, "method: expected a str"),
        ({"method": "empirical-dat"}, "method: .*'empirical-dat'"),
        ({"transport": "projekt"}, "transport: .*'projekt'"),
        ({"select": 3}, "select: .*got 3"),
        ({"rank": "uniform"}, "rank: .*write uniform=True"),
        ({"rank": "per-layer"}, "rank: .*or uniform=False"),
        ({"uniform": 4}, "uniform: expected a bool, got 4"),
        ({"data": 0.5}, "data: expected a list of batches"),
        ({"data": [torch.ones(2, 5, 3)], "loss": 1}, "loss: expected a callable"),
        ({"data": [torch.ones(2, 5, 3)], "forward": "f"}, "forward: expected a callable"),
    ],
)
@pytest.mark.parametrize("how", ["compress_", "Compressor"])
def test_arguments_of_another_kind_are_refused_at_once(options, says, how):
    model, options = build(), {"policy": FixedRank(4), **options}
    act = compress_ if how == "compress_" else partial(Compressor, schedule=Schedule.at(1000))
    with pytest.raises(InputError, match=says):
        act(model, **options)
    assert model.state_dim == 8


@pytest.mark.parametrize(
    "model", [nn.Linear, "model", [LRU(3, 8)], None, iter(LRU(3, 8).parameters())]
)
def test_what_is_no_module_is_refused(model):
    for act in (measure, lambda m: compress_(m, policy=FixedRank(4))):
        with pytest.raises(InputError, match="model: expected a Module, got"):
            act(model)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"schedule": 100},
            r"schedule: expected a Schedule or a WhenSettled, got 100; for example",
        ),
        ({"schedule": [100, 200]}, r"schedule: .*got a list.*Schedule\.at"),
        ({"log": 7}, "log: expected a callable"),
        ({"log": lambda: None}, r"called as log\(event\)"),
        ({"log": Path(__file__).parent}, "log: .* is a folder; expected a file"),
        ({"log": str(Path(__file__).parent)}, "log: .* is a folder"),
    ],
)
def test_schedules_and_logs_are_checked_too(options, says):
    with pytest.raises(InputError, match=says):
        Compressor(build(), policy=FixedRank(4), **{"schedule": Schedule.at(1), **options})


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, "adamw", list(LRU(3, 8).parameters())])
def test_what_is_no_optimizer_is_refused_in_one_line(optimizer):
    with pytest.raises(OptimizerError, match="optimizer: expected a torch optimizer") as refused:
        compress_(build(), optimizer, policy=FixedRank(4))
    assert "\n" not in str(refused.value)


def test_a_step_is_a_number():
    compressor = Compressor(build(), policy=FixedRank(4), schedule=Schedule.at(1000))
    for step in ("7", 7.5, -1, True):
        with pytest.raises(InputError, match="step: expected an integer >= 0"):
            compressor.step(step)
    assert compressor.step(np.int64(3)) is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EnergyTolerance("0.1"), r"tolerance: expected a number, got '0\.1'"),
        (lambda: EnergyTolerance(True), "tolerance: expected a number, got True"),
        (lambda: EnergyTolerance(1.0), "tolerance: expected 0 <= tolerance < 1, got 1.0"),
        (lambda: EnergyTolerance(float("nan")), "tolerance"),
        (
            lambda: EnergyTolerance(0.1, min_rank=2.0),
            r"min_rank: expected an integer >= 1, got 2\.0",
        ),
        (lambda: EnergyTolerance(0.1, multiple_of=True), "multiple_of"),
        (lambda: EnergyTolerance(0.1, gate="half"), "gate: expected a number"),
        (lambda: FixedRank(True), "rank: expected an integer >= 1, got True"),
        (lambda: FixedRank(4.0), "rank"),
        (lambda: FixedRank(torch.tensor(4)), "rank: expected an integer >= 1, got a tensor"),
        (lambda: FixedFraction(None), "keep: expected a number, got None"),
        (lambda: ParameterBudget("1M"), "limit: expected a number, got '1M'"),
        (lambda: MetricBudget(0.5, max_drop=0.1), "evaluate: expected a callable"),
        (lambda: MetricBudget(lambda: 1.0, max_drop=None), "max_drop: expected a number"),
        (lambda: MetricBudget(lambda: 1.0, 0.1, max_trials=0), "max_trials"),
        (lambda: StepTimeBudget(None, 0.1), "step: expected a callable"),
        (lambda: StepTimeBudget(lambda: None, "fast"), "seconds"),
        (lambda: StepTimeBudget(lambda: None, 0.1, repeats=0), "repeats"),
        (lambda: Schedule.at(10.5), r"steps: expected an integer, got 10\.5"),
        (lambda: Schedule.at([10, 20]), "steps: expected an integer, got a list"),
        (lambda: Schedule(steps="10"), "steps: expected step numbers, got '10'"),
        (lambda: Schedule(stop=100.0, every=10), r"stop: expected an integer, got 100\.0"),
        (lambda: Schedule.spaced(cuts=True, stop=10), "cuts"),
        (lambda: WhenSettled(every=1.5, latest=10), "every"),
        (lambda: WhenSettled(every=1, latest=10, tolerance="0.1"), "tolerance: expected a number"),
    ],
)
def test_settings_of_another_kind_are_refused_when_built(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_numpys_numbers_are_numbers():
    assert FixedRank(np.int64(4)) == FixedRank(4)
    assert type(FixedRank(np.int32(4), multiple_of=np.int8(2)).rank) is int
    assert EnergyTolerance(np.float32(0.5)) == EnergyTolerance(0.5)
    assert Schedule.at(np.int64(3), 5) == Schedule.at(3, 5)
    assert Schedule(stop=np.int64(10), every=5).steps == (5, 10)
    assert Schedule(steps=[3, 5]) == Schedule.at(3, 5)
    event = compress_(build(), policy=FixedRank(4), seed=np.int64(3), guard=GUARD)
    assert event.sites[0].after == 4


def test_what_arrived_is_said_in_a_few_words():
    assert shown(torch.ones(10, 20)) == "a tensor of shape (10, 20) and dtype torch.float32"
    assert len(shown(["x" * 1000])) < 100
    assert "\n" not in shown(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))
    assert whole("n", np.uint8(3)) == 3
    assert real("x", torch.tensor([[2.5]])) == 2.5
