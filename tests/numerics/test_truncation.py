"""Balanced truncation: the guarantee, exactness at full rank, diagonal form, degenerate cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressm.errors import InputError, RankError
from compressm.numerics import (
    Reduction,
    StateSpace,
    balance,
    balanced_truncation,
    gramians,
    h2_error,
    hinf_error,
    hinf_norm,
    truncation_bound,
    with_system,
)
from compressm.numerics.lti.coordinates import split_real, stack_state, unfold_readout
from tests.numerics.systems import (
    C128,
    F64,
    complex_diagonal,
    complex_normal,
    dense,
    generator,
    lru,
    relative,
    transformed,
)


def reduce(s: StateSpace, rank: int, *, real_pairs: bool = True, **kw) -> Reduction:
    g = gramians(s, real_pairs=real_pairs)
    return balanced_truncation(s, balance(g.P, g.Q), rank, **kw)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 10), st.integers(1, 3), st.booleans(), st.data())
def test_the_error_lies_between_the_next_value_and_the_bound(seed, n, h, real_pairs, data):
    s = lru(n, h, seed) if real_pairs else complex_diagonal(n, h, seed)
    r = reduce(s, data.draw(st.integers(1, n - 1)))
    error, scale = hinf_error(s, r.system), float(r.sigma[0])
    assert error <= truncation_bound(r.sigma, r.order) + 1e-7 * scale
    # No system of order m comes closer than sigma_{m+1} (Adamjan, Arov, Krein).
    assert error >= float(r.sigma[r.order]) - 1e-7 * scale
    assert float(r.system.A.abs().max()) < 1


def test_complex_balancing_of_a_real_output_keeps_its_bound():
    s = lru(12, 3, 4)
    r = reduce(s, 5, real_pairs=False)
    assert r.rank == r.order == 5
    assert r.lift.shape == (12, 5)
    assert r.system.real_output
    assert hinf_error(s, r.system) <= truncation_bound(r.sigma, 5)


@pytest.mark.parametrize("make", [lru, complex_diagonal, dense])
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_full_rank_reproduces_the_markov_parameters(make, n):
    s = make(n, 2, n)
    r = reduce(s, n)
    assert r.rank == n
    got, want = r.system.markov(60), s.markov(60)
    assert relative(got.real, want.real) < 1e-9
    if got.is_complex():
        assert float((got - want).abs().max()) < 1e-9 * float(want.abs().max())


def test_a_conjugate_transpose_is_not_a_transpose():
    # Six modes of which three hardly matter, with strongly complex residues: with .T for the
    # conjugate transpose the error is of order one.
    s = complex_diagonal(6, 3, 11)
    C = s.C * torch.tensor([1, 1, 1, 1e-4, 1e-4, 1e-4], dtype=F64)
    s = StateSpace(A=s.A, B=s.B, C=C)
    r = reduce(s, 3)
    assert hinf_error(s, r.system) < 1e-3 * hinf_norm(s)


@pytest.mark.parametrize("which", ["largest", "smallest", "random"])
@pytest.mark.parametrize("real_pairs", [True, False])
def test_lift_and_project_are_the_reduction(which, real_pairs):
    s = lru(9, 4, 3)
    r = reduce(s, 4, real_pairs=real_pairs, which=which, generator=generator(1))
    assert r.rank == 4
    full, small = s, r.system
    if real_pairs:
        A, B, C = full.realified().A, stack_state(full.B), unfold_readout(full.C)
        assert r.lift.shape == (18, 8)
        assert r.project.shape == (8, 18)
        singles = small.A.imag == 0
        eye = torch.diag(torch.cat([torch.ones(4), (~singles).double()]).double())
        assert relative(split_real(r.project @ B), small.B) < 1e-12
        assert relative(C @ r.lift, unfold_readout(small.C)) < 1e-12
        a = small.realified().A @ eye
    else:
        A, B, C, eye = torch.diag(full.A), full.B, full.C, torch.eye(4, dtype=C128)
        assert relative(r.project @ B, small.B) < 1e-12
        assert relative(C @ r.lift, small.C) < 1e-12
        a = torch.diag(small.A)
    assert float((r.project @ r.lift - eye).abs().max()) < 1e-11
    assert relative(r.project @ A @ r.lift, a) < 1e-10


def test_states_have_unit_variance():
    r = reduce(lru(9, 4, 3), 5)
    P = gramians(r.system, real_pairs=False).P
    assert torch.allclose(P.diagonal().real, torch.ones(5, dtype=F64), rtol=1e-12)


def test_largest_is_better_than_smallest():
    s = lru(16, 4, 2)
    error = {w: h2_error(s, reduce(s, 8, which=w).system) for w in ("largest", "smallest")}
    assert error["largest"] < error["smallest"]


def test_random_follows_its_generator():
    s = lru(12, 3)
    one, same, other = (
        reduce(s, 4, which="random", generator=generator(seed)).system.A for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_feed_through_is_kept():
    s = lru(6, 3)
    assert torch.equal(reduce(s, 2).system.D, s.D)


def test_any_basis_gives_the_same_reduced_map():
    s = complex_diagonal(8, 3, 6)
    T = complex_normal(8, 8, g=generator(0)) + 3 * torch.eye(8)
    a, b = reduce(s, 4).system, reduce(transformed(s, T), 4).system
    assert relative(b.markov(30), a.markov(30)) < 1e-8


def test_a_dense_complex_system_with_real_output():
    s = lru(6, 2, 8)
    T = complex_normal(6, 6, g=generator(0)) + 3 * torch.eye(6)
    a, b = reduce(s, 3).system, reduce(transformed(s, T), 3).system
    assert relative(b.markov(30), a.markov(30)) < 1e-8


def real_poles(values: list[float], h: int, *, complex_b: bool, seed: int = 0) -> StateSpace:
    g = generator(seed)
    n = len(values)
    B = complex_normal(n, h, g=g)
    if not complex_b:
        B = B.real.to(C128)
    return StateSpace(
        A=torch.tensor(values, dtype=C128), B=B, C=complex_normal(h, n, g=g), real_output=True
    )


def test_real_eigenvalues_take_a_state_each():
    s = real_poles([0.9, 0.6, -0.5, 0.2], 3, complex_b=False)
    r = reduce(s, 4)
    assert r.rank == r.order == 4
    assert bool((r.system.A.imag == 0).all())
    assert float(r.lift[:, 4:].abs().max()) == 0
    assert float(r.project[4:].abs().max()) == 0
    assert relative(r.system.markov(40), s.markov(40)) < 1e-9
    cut = reduce(s, 2)
    assert cut.rank == cut.order == 2
    assert any("kept 2 real directions instead of 4" in note for note in cut.notes)
    assert hinf_error(s, cut.system) <= truncation_bound(cut.sigma, cut.order) * (1 + 1e-9)


def test_two_states_of_one_real_pole_share_a_complex_state():
    s = real_poles([0.9, -0.5], 4, complex_b=True)
    r = reduce(s, 2)
    assert r.rank == 2
    assert r.order == 4
    assert relative(r.system.markov(40), s.markov(40)) < 1e-9


def test_asking_for_more_than_the_rank_is_an_error():
    s = real_poles([0.9, 0.6], 2, complex_b=False)
    with pytest.raises(RankError, match=r"rank 3 .* rank of the system is 2"):
        reduce(s, 3)
    pole = 0.9 * np.exp(0.4j)
    repeated = StateSpace(
        A=torch.full((3,), pole, dtype=C128),
        B=complex_normal(3, 1, g=generator(0)),
        C=complex_normal(2, 3, g=generator(1)),
        real_output=True,
    )
    with pytest.raises(RankError, match=r"rank 2 .* is 2 directions, which 1 complex states hold"):
        reduce(repeated, 2)
    assert relative(reduce(repeated, 1).system.markov(40), repeated.markov(40)) < 1e-7
    dead = StateSpace(A=s.A, B=torch.zeros_like(s.B), C=s.C, real_output=True)
    for strict in (True, False):
        with pytest.raises(RankError, match="is 0"):
            reduce(dead, 1, strict=strict)


def test_not_strict_returns_all_there_is():
    s = real_poles([0.9, 0.6, -0.3], 2, complex_b=False)
    r = reduce(s, 7, strict=False)
    assert r.rank == r.order == 3
    assert any("3 complex states hold the result; 7 were asked for" in note for note in r.notes)
    assert relative(r.system.markov(40), s.markov(40)) < 1e-9


def jordan(pole: float, size: int) -> StateSpace:
    A = pole * torch.eye(size, dtype=F64) + torch.diag(torch.ones(size - 1, dtype=F64), 1)
    g = generator(0)
    B, C = (
        torch.randn(size, 2, dtype=F64, generator=g),
        torch.randn(2, size, dtype=F64, generator=g),
    )
    return StateSpace(A=A, B=B, C=C, diagonal=False)


@pytest.mark.parametrize("size", [2, 3])
def test_a_defective_system_stays_accurate_and_says_so(size):
    s = jordan(0.6, size)
    r = reduce(s, size)
    assert relative(r.system.markov(40), s.markov(40).to(C128)) < 1e-7
    assert any("ill-conditioned" in note or "perturbed" in note for note in r.notes)


def test_a_defective_real_map_stays_accurate():
    j = jordan(0.6, 3)
    s = replace(j, real_output=True)
    r = reduce(s, 2)
    assert r.order == 3  # rounding splits the triple pole into one real pole and a pair
    assert relative(r.system.markov(40), s.markov(40)) < 1e-4


def test_foreign_gramians_may_leave_the_unit_circle_and_are_clamped():
    # With arbitrary P and Q (say empirical ones) nothing guarantees stability.
    s = lru(6, 2, high=0.99)
    clamped = 0
    for seed in range(20):
        g = generator(seed)
        P, Q = (wild_gramian(12, g) for _ in range(2))
        r = balanced_truncation(s, balance(P, Q), 2)
        assert float(r.system.A.abs().max()) < 1
        assert bool(torch.isfinite(r.system.B).all())
        if any("clamped" in note for note in r.notes):
            clamped += 1
            assert float(r.system.A.abs().max()) >= float(s.A.abs().max()) * (1 - 1e-12)
    assert clamped


def wild_gramian(n: int, g: torch.Generator) -> torch.Tensor:
    basis = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=g))[0]
    P = (basis * torch.randn(n, dtype=F64, generator=g).mul(10).exp()) @ basis.T
    return (P + P.T) / 2


@pytest.mark.parametrize("rank", [8, 24])
def test_poles_at_the_edge_of_stability(rank):
    g = generator(0)
    modulus = 1 - torch.logspace(-9, -1, 32, dtype=F64)
    s = StateSpace(
        A=torch.polar(modulus, 3 * torch.rand(32, dtype=F64, generator=g)),
        B=complex_normal(32, 4, g=g) * (1 - modulus).sqrt()[:, None],
        C=complex_normal(4, 32, g=g),
        real_output=True,
    )
    r = reduce(s, rank)
    assert float(r.system.A.abs().max()) < 1
    assert hinf_error(s, r.system) <= truncation_bound(r.sigma, r.order) + 1e-6 * float(r.sigma[0])


def test_single_state_single_channel():
    s = lru(1, 1, 3)
    r = reduce(s, 1)
    assert relative(r.system.markov(20), s.markov(20)) < 1e-12
    assert r.rank == 1


def test_with_system_swaps_the_system_only():
    s = lru(6, 2)
    r = reduce(s, 3)
    other = with_system(r, s.select(torch.arange(3)))
    assert other.lift is r.lift
    assert other.system.order == 3
    with pytest.raises(InputError, match="2 states; the reduction has 3"):
        with_system(r, s.select(torch.arange(2)))


def test_bad_arguments():
    s = lru(4, 2)
    g = gramians(s)
    b = balance(g.P, g.Q)
    for rank in (0, -1, 2.0, True):
        with pytest.raises(InputError, match="rank"):
            balanced_truncation(s, b, rank)
    with pytest.raises(InputError, match="which is 'best'"):
        balanced_truncation(s, b, 2, which="best")
    with pytest.raises(InputError, match="needs 4"):
        balanced_truncation(s, b, 2, real=False)
    with pytest.raises(InputError, match="8 directions"):
        balanced_truncation(lru(5, 2), b, 2)
    with pytest.raises(InputError, match="real_output"):
        balanced_truncation(complex_diagonal(4, 2), b, 2, real=True)
    assert math.isfinite(truncation_bound(b.sigma, 2))
