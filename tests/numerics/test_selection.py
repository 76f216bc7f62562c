"""Greedy mode selection and the reduction that keeps modes as they are."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressm.errors import InputError, RankError
from compressm.numerics import StateSpace, gramians, greedy_modes, h2_error, mode_reduction
from compressm.numerics.lti.coordinates import unfold_readout
from tests.numerics.systems import C128, F64, complex_diagonal, dense, generator, lru, relative


def left_over(s: StateSpace, P: Tensor, kept: list[int]) -> float:
    """Output energy that no readout of the kept states explains.

    With P = L L* the outputs are the rows of C L, and what the kept states explain is their
    projection on the rows L[S]: an orthogonal projection by SVD, no inverse of P[S,S].
    """
    s = s.double()
    C = unfold_readout(s.C) if s.real_output else s.C
    columns = [*kept, *(k + s.order for k in kept)] if s.real_output else kept
    values, vectors = torch.linalg.eigh(P)
    L = vectors * values.clamp_min(0).sqrt()
    rows = C.to(L.dtype) @ L
    _, size, basis = torch.linalg.svd(L[columns], full_matrices=False)
    basis = basis[size > 1e-7 * float(size.max())] if kept else basis
    return float((rows - rows @ basis.mH @ basis).abs().square().sum())


def moment(s: StateSpace) -> Tensor:
    return gramians(s).P


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 3), st.booleans())
def test_every_pick_is_the_best_next_one(seed, n, h, real):
    s = lru(n, h, seed) if real else complex_diagonal(n, h, seed)
    P = moment(s)
    order = greedy_modes(s, P, n)
    assert float(order.total) == pytest.approx(left_over(s, P, []), rel=1e-12)
    picks = order.indices.tolist()
    assert sorted(picks) == list(range(n))
    for k, pick in enumerate(picks):
        options = {j: left_over(s, P, [*picks[:k], j]) for j in range(n) if j not in picks[:k]}
        assert options[pick] <= min(options.values()) + 1e-7 * float(order.total)
        assert float(order.residual[k]) == pytest.approx(
            options[pick], abs=1e-7 * float(order.total)
        )


def test_first_pick_and_pairs_against_brute_force():
    s = lru(7, 2, 5)
    P = moment(s)
    first = min(range(7), key=lambda j: left_over(s, P, [j]))
    order = greedy_modes(s, P, 2)
    assert int(order.indices[0]) == first
    best_pair = min(left_over(s, P, list(pair)) for pair in combinations(range(7), 2))
    assert float(order.residual[1]) >= best_pair * (1 - 1e-12)
    # Greedy is no more than the single best mode away from the best pair.
    assert float(order.residual[1]) <= float(order.residual[0])


def test_the_residual_is_the_h2_error_of_the_reduction():
    s = lru(12, 3, 1)
    P = moment(s)
    order = greedy_modes(s, P, 5)
    r = mode_reduction(s, P, order.indices, ridge=0.0)
    assert h2_error(s, r.system) ** 2 == pytest.approx(float(order.residual[-1]), rel=1e-9)


def test_correlated_modes_are_not_picked_twice():
    # Two strong modes that are nearly one, and a weak one that is different.
    A = torch.polar(
        torch.tensor([0.9, 0.9, 0.9], dtype=F64), torch.tensor([0.5, 0.5001, 2.5], dtype=F64)
    )
    s = StateSpace(
        A=A, B=torch.ones(3, 1), C=torch.tensor([[1.0, 1.0, 0.1]]).to(C128), real_output=True
    )
    picks = greedy_modes(s, moment(s), 2).indices.tolist()
    assert 2 in picks


@pytest.mark.parametrize("dead", ["B", "C"])
def test_dead_systems_still_give_distinct_modes(dead):
    s = lru(5, 2)
    B = torch.zeros_like(s.B) if dead == "B" else s.B
    C = torch.zeros_like(s.C) if dead == "C" else s.C
    s = StateSpace(A=s.A, B=B, C=C, real_output=True)
    order = greedy_modes(s, moment(s), 5)
    assert sorted(order.indices.tolist()) == list(range(5))
    assert float(order.residual.abs().max()) == 0
    r = mode_reduction(s, moment(s), order.indices[:2])
    assert bool(torch.isfinite(r.system.C).all())
    assert float(r.system.markov(5).abs().max()) < 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_clustered_modes_promise_no_more_than_they_keep(seed):
    # Conditional variances here fall to rounding level; dividing by those invents energy.
    s = lru(30, 1, seed, low=0.9, high=0.999)
    s = StateSpace(A=torch.polar(s.A.abs(), s.A.angle() * 1e-3), B=s.B, C=s.C, real_output=True)
    order = greedy_modes(s, moment(s), 12)
    error = h2_error(s, mode_reduction(s, moment(s), order.indices, ridge=0.0).system) ** 2
    assert error <= float(order.residual[-1]) + 1e-6 * float(order.total)


def test_redundant_modes_leave_nothing():
    pole = torch.full((4,), 0.8 + 0.3j, dtype=C128)
    g = generator(0)
    s = StateSpace(
        A=pole,
        B=torch.randn(4, 1, dtype=C128, generator=g),
        C=torch.randn(2, 4, dtype=C128, generator=g),
        real_output=True,
    )
    order = greedy_modes(s, moment(s), 3)
    assert float(order.residual[0]) < 1e-12 * float(order.total)
    r = mode_reduction(s, moment(s), order.indices[:1], ridge=0.0)
    assert relative(r.system.markov(30), s.markov(30)) < 1e-12
    assert bool(torch.isfinite(mode_reduction(s, moment(s), order.indices).system.C).all())


def test_real_modes_with_real_inputs():
    s = StateSpace(
        A=torch.tensor([0.9, -0.5, 0.2], dtype=C128),
        B=torch.tensor([[1.0], [2.0], [0.5]]),
        C=torch.tensor([[1.0, 1.0, 1.0]]),
        real_output=True,
    )
    P = moment(s)
    order = greedy_modes(s, P, 3)
    assert float(order.residual[-1]) < 1e-12 * float(order.total)
    r = mode_reduction(s, P, order.indices[:2], ridge=0.0)
    want = left_over(s, P, order.indices[:2].tolist())
    assert h2_error(s, r.system) ** 2 == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("make", [lru, complex_diagonal])
def test_kept_modes_are_exact_and_the_refit_helps(make):
    s, kept = make(10, 3, 2), torch.tensor([7, 1, 4])
    plain = mode_reduction(s, None, kept)
    refitted = mode_reduction(s, moment(s), kept, ridge=0.0)
    for r in (plain, refitted):
        assert torch.equal(r.system.A, s.A[kept])
        assert torch.equal(r.system.B, s.B[kept])
        assert torch.equal(r.indices, kept)
        assert r.rank == 3
        eye = torch.eye(r.lift.shape[1], dtype=r.lift.dtype)
        assert float((r.project.to(r.lift.dtype) @ r.lift - eye).abs().max()) < 1e-10
    assert torch.equal(plain.system.C, s.C[:, kept])
    assert h2_error(s, refitted.system) < h2_error(s, plain.system)


def test_a_ridge_never_does_worse_than_no_refit():
    s, kept = lru(10, 3, 2), torch.tensor([0, 1, 2, 3])
    errors = [
        h2_error(s, mode_reduction(s, moment(s), kept, ridge=ridge).system)
        for ridge in (0.0, 1e-6, 1e-2, 1.0, 1e6)
    ]
    assert errors == sorted(errors)
    assert errors[-1] <= h2_error(s, mode_reduction(s, None, kept).system)


def test_keeping_all_modes_changes_nothing():
    s = lru(6, 2)
    r = mode_reduction(s, moment(s), torch.arange(6))
    assert relative(r.system.C, s.C) < 1e-12


def test_bad_arguments():
    s = lru(4, 2)
    P = moment(s)
    with pytest.raises(RankError, match=r"rank 5 .* 4 modes"):
        greedy_modes(s, P, 5)
    with pytest.raises(InputError, match=r"P has shape \(4, 4\); expected \(8, 8\)"):
        greedy_modes(s, P[:4, :4], 2)
    with pytest.raises(InputError, match="diagonal"):
        greedy_modes(dense(4, 2), P, 2)
    with pytest.raises(InputError, match="diagonal"):
        mode_reduction(dense(4, 2), None, torch.tensor([0]))
    for bad in ([0, 0], [4], [-1], []):
        with pytest.raises(InputError, match="indices"):
            mode_reduction(s, P, torch.tensor(bad, dtype=torch.int64))
    with pytest.raises(InputError, match="indices"):
        mode_reduction(s, P, torch.tensor([0.0]))
    with pytest.raises(InputError, match="ridge"):
        mode_reduction(s, P, torch.tensor([0]), ridge=-1.0)
