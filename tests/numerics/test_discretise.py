"""Continuous time and back: against 60 digits, and round trips."""

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressm.errors import InputError
from compressm.numerics import DISCRETISATIONS, discretise, undiscretise
from tests.numerics.systems import C128, F64

RULES = list(DISCRETISATIONS)


def exact(rule, A, step):
    """(λ, g) to 60 digits, as the textbook writes them."""
    with mpmath.workdps(60):
        A, step = mpmath.mpc(A.real, A.imag), mpmath.mpf(step)
        if rule == "bilinear":
            return (1 + step * A / 2) / (1 - step * A / 2), step / (1 - step * A / 2)
        pole = mpmath.exp(step * A)
        return pole, (pole - 1) / A if A else step


def off(got, want) -> float:
    with mpmath.workdps(60):
        got = mpmath.mpc(complex(got).real, complex(got).imag)
        return float(abs(got - want) / abs(want))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("step", [1e-12, 1e-6, 1e-3, 0.1, 1.0, 5.0])
@pytest.mark.parametrize(
    "A", [0.0, -1e-15, -1e-9 + 1e-9j, -0.5, -0.5 + 3j, -1e-12 + 2j, -40 + 1j, 1e-9j, -0.5 - 100j]
)
def test_poles_and_gains_keep_their_digits(rule, step, A):
    poles, gain = discretise(torch.tensor([A], dtype=C128), torch.tensor(step), rule)
    step = float(torch.tensor(step).double())  # the step arrived in float32
    want = exact(rule, complex(A), step)
    # A phase of many radians is rounded before it is used.
    rounding = 1e-15 * (10 + abs(complex(A)) * step)
    assert off(poles[0], want[0]) < rounding
    assert off(gain[0], want[1]) < rounding


@settings(max_examples=200)
@given(
    st.sampled_from(RULES),
    st.floats(-12, 0),
    st.floats(-3.1, 3.1),
    st.floats(-9, 1),
)
def test_recurrences_survive_the_way_there_and_back(rule, closeness, phase, log_step):
    """λ -> Λ -> λ, from near zero to 1e-12 from the circle."""
    modulus = torch.tensor(1 - 10.0**closeness, dtype=F64).clamp_min(1e-12)
    poles = torch.polar(modulus, torch.tensor(phase, dtype=F64))[None]
    step = torch.tensor(10.0**log_step, dtype=F64)
    A, gain = undiscretise(poles, step, rule)
    again, same = discretise(A, step, rule)
    close = {"rtol": 1e-12, "atol": 0}
    if rule == "bilinear":  # small λ, and the gain near -1, are differences of numbers near 1
        close["atol"] = 1e-15
        torch.testing.assert_close(same / step, gain / step, **close)
    else:
        torch.testing.assert_close(same, gain, **close)
    torch.testing.assert_close(again, poles, **close)
    assert float(A.real) <= 1e-15 / float(step)  # stable stays stable


@settings(max_examples=200)
@given(st.sampled_from(RULES), st.floats(-8, 1), st.floats(-3, 3), st.floats(-4, 0))
def test_continuous_systems_survive_the_way_there_and_back(rule, log_decay, frequency, log_step):
    """Λ -> λ -> Λ to 1e-12, and to what the rounding of λ leaves where ΔΛ is small."""
    step = torch.tensor([10.0**log_step], dtype=F64)
    A = torch.complex(torch.tensor([-(10.0**log_decay)], dtype=F64), frequency / step)
    poles, gain = discretise(A, step, rule)
    if float(poles.abs()) < 1e-4:
        return  # a state that is gone within a step
    again, same = undiscretise(poles, step, rule)
    size = float((A.abs() * step).item())
    assert float((again - A).abs() / A.abs()) < 1e-12 + 2e-15 / size / float(poles.abs())
    torch.testing.assert_close(same, gain, rtol=1e-11, atol=0)


def test_a_held_input_gives_the_states_of_the_differential_equation():
    """Between steps the input stands still, and x' = Λ x + u has a closed form."""
    A, step = torch.tensor([-0.3 + 2j], dtype=C128), torch.tensor([0.25], dtype=F64)
    pole, gain = discretise(A, step, "zoh")
    fine, small = discretise(A, step / 1000, "bilinear")
    x = y = torch.zeros(1, dtype=C128)
    for u in (1.0, -2.0, 0.5):
        x = pole * x + gain * u
        for _ in range(1000):
            y = fine * y + small * u
    torch.testing.assert_close(x, y, rtol=1e-6, atol=0)


def test_steps_of_each_state_and_groups_broadcast():
    A = torch.complex(-torch.rand(3, 4, dtype=F64), torch.rand(3, 4, dtype=F64))
    step = torch.rand(3, 1, dtype=F64) + 0.1
    for rule in RULES:
        poles, gain = discretise(A, step, rule)
        assert poles.shape == gain.shape == (3, 4)
        one = discretise(A[2], step[2], rule)
        assert torch.equal(poles[2], one[0])
        assert torch.equal(gain[2], one[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: discretise(torch.zeros(1), torch.ones(1), "euler"), "zoh, bilinear"),
        (lambda: discretise(torch.zeros(1), torch.zeros(1), "zoh"), "steps > 0"),
        (lambda: undiscretise(torch.zeros(2), torch.ones(1), "zoh"), "2 of 2 poles: λ = 0"),
        (lambda: undiscretise(-torch.ones(1), torch.ones(1), "bilinear"), "λ = -1"),
        (lambda: discretise(torch.ones(1), 2 * torch.ones(1), "bilinear"), "ΔΛ = 2"),
    ],
)
def test_what_has_no_such_form_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
