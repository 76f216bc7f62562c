"""The fit to outputs: it finds what is there, is never worse, and computes what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compressm.errors import InputError, UnstableSystemError
from compressm.numerics import (
    StateSpace,
    balance,
    balanced_truncation,
    fit_to_outputs,
    gramians,
    simulated,
)
from compressm.numerics.lti import output_fit
from compressm.numerics.lti.recorded import recorded
from compressm.numerics.lti.refit import psd_solve
from tests.numerics.systems import C128, F64, complex_normal, generator, lru, simulate


def channels(groups: int, n: int, seed: int = 0) -> StateSpace:
    """A system of one input and output for each group."""
    g = generator(seed)
    modulus = 0.6 + 0.35 * torch.rand(groups, n, dtype=F64, generator=g)
    return StateSpace(
        A=torch.polar(modulus, 3 * torch.rand(groups, n, dtype=F64, generator=g)),
        B=torch.ones(groups, n, 1, dtype=C128),
        C=complex_normal(groups, 1, n, g=g),
        real_output=True,
    )


def inputs(count: int, length: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, length, width, dtype=F64, generator=generator(seed)).cumsum(1)


def missed(full, reduced, u, mask=None):
    """The relative error, step by step, without D."""
    u = u if mask is None else u * mask[..., None]
    y, found = (simulated(replace(s, D=None), u) for s in (full, reduced))
    counts = torch.ones(u.shape[:2], dtype=F64) if mask is None else mask.double()
    gap = (y - found) * counts[..., None]
    return float(gap.norm() / (y * counts[..., None]).norm())


def truncated(s: StateSpace, rank: int) -> StateSpace:
    g = gramians(s)
    return balanced_truncation(s, balance(g.P, g.Q, pairs=True), rank).system


@pytest.mark.parametrize("length", [1, 2, 13, 64])
def test_states_are_those_of_the_recursion(length):
    s, u = lru(5, 3, high=0.999), inputs(4, length, 3)
    grouped = replace(s, A=s.A[None], B=s.B[None], C=s.C[None], D=None)
    counts = torch.rand(4, length, generator=generator(2)) < 0.7
    data = recorded(grouped, u, counts)
    P, X = data.moments(s.A.log()[None], s.B[None])
    x, y = simulate(replace(s, D=None), u)
    z = torch.cat([x.real, x.imag], -1)[counts]
    torch.testing.assert_close(P[0], z.mT @ z)
    torch.testing.assert_close(X[0], y[counts].mT @ z)
    torch.testing.assert_close(data.energy, y[counts].square().sum()[None])
    flat = u.flatten(0, 1)
    torch.testing.assert_close(data.covariance()[0], flat.mT @ flat / len(flat))


@pytest.mark.parametrize("width", [1, 3])
def test_a_system_of_that_size_is_found(width):
    """Started near by, the fit comes to the poles, not just to a small error."""
    full, u = lru(3, width, 5), inputs(8, 50, width)
    g = generator(3)
    start = replace(
        full,
        A=full.A * torch.polar(torch.tensor(0.97, dtype=F64), 0.05 * torch.ones(3, dtype=F64)),
        B=full.B + 0.1 * complex_normal(3, width, g=g) * full.B.abs(),
        C=torch.zeros_like(full.C),
    )
    fit = fit_to_outputs(full, start, u, iterations=200)
    assert fit.moved
    assert fit.after < 0.02 * fit.before
    torch.testing.assert_close(fit.system.A, full.A, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_errors_are_what_the_recursion_says_and_fall(rank):
    full, u = lru(12, 3, 2), inputs(6, 40, 3)
    mask = torch.ones(6, 40, dtype=torch.bool)
    mask[:3, 25:] = False
    start = truncated(full, rank)
    fit = fit_to_outputs(full, start, u, mask, iterations=25)
    assert fit.after == pytest.approx(missed(full, fit.system, u, mask), rel=1e-6)
    assert fit.after < 0.95 * fit.before
    assert fit.before <= missed(full, start, u, mask)
    assert bool((fit.system.A.abs() < 1).all())
    torch.testing.assert_close(fit.system.D, start.D)
    # At the end no other readout is better.
    none = fit_to_outputs(full, fit.system, u, mask, iterations=1)
    assert none.before == pytest.approx(fit.after, rel=1e-4)


def test_what_is_masked_does_not_matter():
    full, u = lru(8, 2, 3), inputs(4, 30, 2)
    mask = torch.ones(4, 30, dtype=torch.bool)
    mask[1:, 20:] = False
    other = torch.where(mask[..., None], u, 7.0)
    fits = [fit_to_outputs(full, truncated(full, 2), v, mask, iterations=10) for v in (u, other)]
    torch.testing.assert_close(fits[0].system.A, fits[1].system.A)
    assert fits[0].after == pytest.approx(fits[1].after)


def test_groups_are_fitted_each_by_itself(monkeypatch):
    """A group alone is a system without groups; together each comes further, if not as far."""
    full, u = channels(3, 8), inputs(4, 30, 3)
    start = full.select(torch.tensor([[0, 2], [1, 3], [4, 5]]))
    together = fit_to_outputs(full, start, u, iterations=60)
    assert together.after < 0.5 * together.before
    for name in ("_TOGETHER", "_HELD"):
        monkeypatch.undo()
        monkeypatch.setattr(output_fit, name, 1)
        apart = fit_to_outputs(full, start, u, iterations=60)
        assert apart.before == pytest.approx(together.before)
        assert apart.after < 0.5 * apart.before
    one = StateSpace(A=full.A[1], B=full.B[1], C=full.C[1], real_output=True)
    alone = fit_to_outputs(one, one.select(torch.tensor([1, 3])), u[..., 1:2], iterations=60)
    torch.testing.assert_close(alone.system.A, apart.system.A[1])
    torch.testing.assert_close(alone.system.C, apart.system.C[1])


def test_a_real_pole_of_one_input_can_become_a_pair():
    g = generator(0)
    full = StateSpace(
        A=torch.polar(torch.tensor([0.9], dtype=F64), torch.tensor([0.3], dtype=F64)),
        B=torch.ones(1, 1, dtype=C128),
        C=complex_normal(1, 1, g=g),
        real_output=True,
    )
    start = replace(full, A=full.A.abs().to(C128))
    fit = fit_to_outputs(full, start, inputs(6, 60, 1), iterations=100)
    assert fit.before > 0.1
    assert fit.after < 1e-3


def test_where_a_fit_gains_nothing_what_there_was_stays(monkeypatch):
    full, u = lru(8, 2, 3), inputs(4, 30, 2)
    start = truncated(full, 3)

    def astray(loss, coordinates, iterations):
        with torch.no_grad():
            for one in coordinates:
                one.add_(1.0)

    monkeypatch.setattr(output_fit, "descend", astray)
    fit = fit_to_outputs(full, start, u)
    assert not fit.moved
    assert fit.after == fit.before == pytest.approx(missed(full, fit.system, u), rel=1e-6)
    assert torch.equal(fit.system.A, start.A)
    assert torch.equal(fit.system.B, start.B)


def test_a_search_over_a_part_is_judged_on_the_whole():
    """One sequence at one frequency leaves open what others need."""
    full = lru(10, 2, 7)
    tone = torch.sin(0.4 * torch.arange(40, dtype=F64))[None, :, None].expand(1, -1, 2)
    u = torch.cat([tone, inputs(7, 40, 2)])
    start = truncated(full, 3)
    some = fit_to_outputs(full, start, u, searched=torch.tensor([0]), iterations=30)
    every = fit_to_outputs(full, start, u, iterations=30)
    assert some.before == pytest.approx(every.before)
    assert every.after < some.after <= some.before


def test_silence_is_left_as_it_is():
    full = lru(6, 2)
    fit = fit_to_outputs(full, truncated(full, 2), torch.zeros(2, 10, 2))
    assert not fit.moved
    assert fit.before is None
    assert fit.after is None


def test_what_makes_no_sense_is_refused():
    full, u = lru(6, 2), inputs(2, 10, 2)
    start = truncated(full, 2)
    with pytest.raises(InputError, match="full: expected a diagonal system with real output"):
        fit_to_outputs(replace(full, real_output=False), start, u)
    with pytest.raises(InputError, match=r"expected \(S, L, 2\)"):
        fit_to_outputs(full, start, u[..., :1])
    with pytest.raises(InputError, match=r"mask has shape \(2, 9\)"):
        fit_to_outputs(full, start, u, torch.ones(2, 9))
    with pytest.raises(UnstableSystemError):
        fit_to_outputs(full, replace(start, A=start.A / start.A.abs()), u)


def test_the_gradient_is_that_of_the_error_with_the_best_readout():
    """Variable projection against finite differences of the whole."""
    full, u = lru(6, 2, 4), inputs(3, 20, 2)
    grouped = replace(full, A=full.A[None], B=full.B[None], C=full.C[None], D=None)
    data = recorded(grouped, u, None)
    start = truncated(full, 2)
    logs = start.A.log()[None].requires_grad_()

    def error(logs):
        P, X = data.moments(logs, start.B[None])
        C = psd_solve(P.detach(), X.detach())
        return (data.energy + (C * (C @ P - 2 * X)).sum((-2, -1))).sum()

    (gradient,) = torch.autograd.grad(error(logs), logs)
    step = 1e-6
    for direction in (step, step * 1j):
        moved = logs.detach() + torch.tensor([[direction, 0]])
        back = logs.detach() - torch.tensor([[direction, 0]])
        slope = float(error(moved) - error(back)) / (2 * step)
        expected = gradient[0, 0].real if direction == step else gradient[0, 0].imag
        assert slope == pytest.approx(float(expected), rel=1e-4)
