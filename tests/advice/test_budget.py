"""Limits as people write them."""

import pytest

from compressm import Budget
from compressm.errors import InputError


def test_several_limits_in_one_text_or_in_several():
    expected = Budget(loss=0.02, metric=0.5, parameters=1.2e6, state_bytes=64e3)
    given = ["loss=+0.02, metric=-0.5", "parameters=1.2M", "state_bytes = 64k"]
    assert Budget.parse(given) == expected
    assert Budget.parse([str(expected)]) == expected
    assert Budget.parse(["memory_mb=1e2,milliseconds=.5"]).limits == {
        "memory_mb": 100.0,
        "milliseconds": 0.5,
    }
    assert Budget.parse([]).limits == {}


def test_limits_on_quality_and_on_cost():
    budget = Budget(loss=0.1, memory_mb=3, metric=-2)
    assert budget.quality == {"loss": 0.1, "metric": 2.0}
    assert budget.cost == {"memory_mb": 3.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lss=0.1", r"'lss=0.1' \(did you mean 'loss'\?\).*metric=-0.5.*milliseconds=3"),
        ("", "expected one or more of loss"),
        ("loss", "expected a number behind loss="),
        ("loss=", "expected a number behind loss="),
        ("loss=much", "for example loss=\\+0.02"),
        ("parameters=3T", "k, M or G"),
        ("loss=0.1,loss=0.2", "loss is given twice"),
        ("loss=-0.1", "loss: expected a number >= 0, got -0.1"),
        ("milliseconds=nan", "expected a number"),
    ],
)
def test_a_slip_is_one_clear_error(text, message):
    with pytest.raises(InputError, match=message):
        Budget.parse([text])


@pytest.mark.parametrize("limit", ["much", None.__class__, True, float("inf"), float("nan")])
def test_limits_are_numbers(limit):
    with pytest.raises(InputError, match="memory_mb: expected a number"):
        Budget(memory_mb=limit)
