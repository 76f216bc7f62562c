"""Refits: optimal, never worse, the same with data in the limit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressm.errors import InputError, UnstableSystemError
from compressm.numerics import (
    StateMoments,
    StateSpace,
    adjoint,
    balance,
    balanced_truncation,
    cross_gramian,
    data_refit,
    gramians,
    h2_error,
    h2_norm,
    h2_refit,
    refit_input,
    refit_output,
    stack,
)
from compressm.numerics.lti.refit import psd_solve
from tests.numerics.systems import (
    C128,
    F64,
    complex_diagonal,
    complex_normal,
    dense,
    generator,
    lru,
    relative,
    simulate,
)


def truncated(s: StateSpace, rank: int, **kw) -> StateSpace:
    g = gramians(s)
    return balanced_truncation(s, balance(g.P, g.Q), rank, **kw).system


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 10), st.booleans(), st.integers(0, 2))
def test_the_refit_never_increases_the_h2_error(seed, n, real, alternations):
    s = lru(n, 2, seed) if real else complex_diagonal(n, 2, seed)
    r = truncated(s, max(1, n // 2))
    before, after = h2_error(s, r), h2_error(s, h2_refit(s, r, alternations=alternations))
    assert after <= before + 1e-7 * h2_norm(s)


@pytest.mark.parametrize("make", [lru, complex_diagonal])
def test_the_refitted_readout_is_a_minimum(make):
    s = make(10, 3, 4)
    best = h2_refit(s, truncated(s, 4))
    error = h2_error(s, best)
    for seed in range(5):
        step = 0.01 * complex_normal(3, best.order, g=generator(seed))
        other = StateSpace(A=best.A, B=best.B, C=best.C + step, D=best.D, real_output=s.real_output)
        assert h2_error(s, other) > error


def test_every_alternation_helps():
    s = lru(16, 3, 4)
    r = truncated(s, 4)
    errors = [h2_error(s, h2_refit(s, r, alternations=k)) for k in range(5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("make", [lru, complex_diagonal])
def test_the_input_refit_is_the_dual(make):
    s = make(10, 3, 4)
    r = truncated(s, 4)
    Y, Q = cross_gramian(adjoint(s), adjoint(r)), cross_gramian(adjoint(r), adjoint(r))
    refitted = refit_input(s, r, cross=Y, moment=Q)
    assert torch.equal(refitted.C, r.C)
    assert h2_error(s, refitted) < h2_error(s, r)
    step = 0.01 * complex_normal(4, 3, g=generator(0))
    other = StateSpace(A=r.A, B=refitted.B + step, C=r.C, D=r.D, real_output=s.real_output)
    assert h2_error(s, other) > h2_error(s, refitted)


def test_a_lost_readout_is_recovered():
    s = lru(6, 3)
    blank = StateSpace(A=s.A, B=s.B, C=torch.zeros_like(s.C), D=s.D, real_output=True)
    assert relative(h2_refit(s, blank).C, s.C) < 1e-9


def test_a_dense_full_system_can_be_fitted():
    s = dense(8, 2, 1)
    g = gramians(s)
    r = balanced_truncation(s, balance(g.P, g.Q), 4).system
    assert h2_error(s, h2_refit(s, r)) < h2_error(s, r)


def test_an_unstable_system_is_refused():
    s = lru(3, 2)
    wild = StateSpace(A=s.A * 2, B=s.B, C=s.C, real_output=True)
    with pytest.raises(UnstableSystemError):
        h2_refit(s, wild)


def coloured(batch: int, length: int, h: int, seed: int) -> torch.Tensor:
    """Slow inputs: sums of white noise with an offset, nothing like white noise."""
    u = torch.randn(batch, length, h, dtype=F64, generator=generator(seed))
    return u.cumsum(1) / length**0.5 + 1


@pytest.mark.parametrize("make", [lru, complex_diagonal])
def test_the_data_refit_is_least_squares_on_recorded_states(make):
    s = make(8, 2, 3)
    r, u = truncated(s, 3), coloured(6, 40, 2, 0)
    joint = StateMoments(stack(s, r)).update(u).moment
    refitted = data_refit(s, r, joint, ridge=0.0)
    s0 = StateSpace(A=s.A, B=s.B, C=s.C, real_output=s.real_output)
    target, states = simulate(s0, u)[1].flatten(0, 1), simulate(r, u)[0].flatten(0, 1)
    if s.real_output:
        states = torch.cat([states.real, -states.imag], 1)
        real_C = torch.linalg.lstsq(states, target).solution.T
        want = torch.complex(real_C[:, :3], real_C[:, 3:])
    else:
        want = torch.linalg.lstsq(states, target).solution.T
    assert relative(refitted.C, want) < 1e-7


def test_the_data_refit_fits_the_data_better_than_the_h2_refit():
    s, u = lru(12, 3, 3), coloured(8, 60, 3, 1)
    r = truncated(s, 3)
    joint = StateMoments(stack(s, r)).update(u).moment
    target = simulate(s, u)[1]
    errors = [
        float((simulate(system, u)[1] - target).norm())
        for system in (data_refit(s, r, joint), h2_refit(s, r), r)
    ]
    assert errors[0] < min(errors[1:])


def test_a_ridge_pulls_towards_the_given_readout():
    s = lru(10, 2, 5)
    r = truncated(s, 3)
    X, P = cross_gramian(s, r), cross_gramian(r, r)
    errors = [
        h2_error(s, refit_output(s, r, cross=X, moment=P, ridge=ridge))
        for ridge in (0.0, 1e-4, 1.0, 1e8)
    ]
    assert errors == sorted(errors)
    assert errors[-1] == pytest.approx(h2_error(s, r), rel=1e-6)


def test_single_real_states_keep_a_zero_imaginary_readout():
    s = StateSpace(
        A=torch.tensor([0.9, 0.5, -0.3], dtype=C128),
        B=torch.randn(3, 2, generator=generator(0)),
        C=torch.randn(2, 3, generator=generator(1)),
        real_output=True,
    )
    refitted = h2_refit(s, truncated(s, 2))
    assert float(refitted.C.imag.abs().max()) == 0


def test_psd_solve_handles_zero_and_singular_moments():
    right = torch.ones(2, 3, dtype=F64)
    assert not bool(psd_solve(torch.zeros(3, 3, dtype=F64), right).any())
    singular = torch.diag(torch.tensor([2.0, 1e-300, 0.0], dtype=F64))
    solved = psd_solve(singular, right * torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(solved, torch.tensor([[0.5, 0.0, 0.0]] * 2, dtype=F64))


def test_bad_arguments():
    s, r = lru(5, 2), lru(3, 2, 1)
    X, P = cross_gramian(s, r), cross_gramian(r, r)
    with pytest.raises(InputError, match=r"cross has shape \(6, 10\); expected \(10, 6\)"):
        refit_output(s, r, cross=X.T, moment=P)
    with pytest.raises(InputError, match=r"moment has shape"):
        refit_output(s, r, cross=X, moment=P[:3, :3])
    with pytest.raises(InputError, match="non-finite"):
        refit_output(s, r, cross=X * float("nan"), moment=P)
    with pytest.raises(InputError, match="ridge"):
        refit_output(s, r, cross=X, moment=P, ridge=-1)
    with pytest.raises(InputError, match="real_output"):
        refit_output(s, complex_diagonal(3, 2), cross=X, moment=P)
    with pytest.raises(InputError, match=r"joint has shape"):
        data_refit(s, r, P)
