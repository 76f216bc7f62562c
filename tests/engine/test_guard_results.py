"""What a guard's metric may be: a number, and nothing else."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from compressm import FixedRank, Guard, MetricBudget, compress_
from compressm.errors import InputError
from compressm.nn import state_dims
from tests.engine.test_guard import CUT, FULL, Loop, build, exactly


@pytest.mark.parametrize(
    "number",
    [
        7,
        0.5,
        np.float32(0.5),
        np.int64(3),
        np.array([0.5]),
        torch.tensor(0.5, requires_grad=True),
        torch.tensor([[2]]),
        torch.tensor(0.5, dtype=torch.bfloat16),
        Fraction(1, 2),
    ],
)
def test_a_metric_is_anything_that_holds_one_number(number):
    event = compress_(build(), policy=FixedRank(CUT), guard=Guard(lambda: number, max_drop=1))
    assert (event.kind, event.metric_after) == (
        "cut",
        number.item() if hasattr(number, "item") else number,
    )


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ({"eval_loss": 0.5}, "a dict with the keys .'eval_loss'.*result.'eval_loss'"),
        (None, "None"),
        (torch.ones(3), r"a tensor of shape \(3,\)"),
        ((0.5, 10), "a tuple"),
        ("0.5", "'0.5'"),
        (1j, "1j"),
        (True, "True"),
        (np.bool_(True), ".*bool"),
        (torch.tensor(True), "a tensor.*torch.bool"),
        (torch.tensor(1j), "a tensor.*complex64"),
        (np.array([]), ".*ndarray.*float64"),
    ],
)
@pytest.mark.parametrize("when", ["before the cut", "after the cut"])
def test_a_metric_of_another_kind_is_an_error_and_everything_is_put_back(returned, says, when):
    def score(loop):
        return returned if when == "before the cut" or loop.states != [FULL] * 2 else 1.0

    loop, plain = Loop(metric=score), Loop()
    plain.run(1 if when == "before the cut" else 5)  # it is evaluated at the first step too
    with pytest.raises(InputError, match=f"evaluate: expected a number from .*returned {says}"):
        loop.run(5)
    exactly(loop, plain)
    assert not loop.compressor.pending


def test_a_budget_for_a_metric_takes_numbers_only_too():
    model = build()
    with pytest.raises(InputError, match=r"evaluate: .*a dict with the keys \['loss'\]"):
        compress_(model, policy=MetricBudget(lambda: {"loss": 1.0}, max_drop=0.1))
    assert list(state_dims(model).values()) == [FULL] * 2


def test_an_evaluation_that_wants_arguments_is_refused_at_once():
    with pytest.raises(InputError, match=r"called as evaluate\(\).*missing a required argument"):
        Guard(lambda model: 0.5, max_drop=0.1)
