"""Hankel singular values against independent computations, and degenerate Gramians."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressm.errors import InputError
from compressm.numerics import (
    StateSpace,
    balance,
    balanced_truncation,
    gramians,
    hankel_singular_values,
    psd_factor,
    truncation_bound,
)
from tests.numerics.systems import (
    C128,
    F64,
    complex_diagonal,
    dense,
    generator,
    hankel_matrix_values,
    lru,
    relative,
    transformed,
)


def values(s: StateSpace, **kw) -> torch.Tensor:
    g = gramians(s, **kw)
    return hankel_singular_values(g.P, g.Q)


@pytest.mark.parametrize("h", [1, 3])
@pytest.mark.parametrize("kind", [lru, complex_diagonal, dense])
def test_values_are_those_of_the_block_hankel_matrix(kind, h):
    s = kind(5, h, 2) if kind is dense else kind(5, h, 2, high=0.8)
    sigma = values(s).numpy()
    want = hankel_matrix_values(s, 110)[: len(sigma)]
    np.testing.assert_allclose(sigma, want, rtol=1e-6, atol=1e-9 * want[0])


def test_finite_horizon_values_are_below_the_infinite_ones():
    s = lru(8, 2)
    assert bool((values(s, horizon=20) <= values(s) * (1 + 1e-12)).all())


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 4))
def test_values_do_not_depend_on_the_basis(seed, n, h):
    s = complex_diagonal(n, h, seed)
    T = torch.randn(n, n, dtype=C128, generator=generator(seed + 1)) + 2 * torch.eye(n)
    a, b = values(s), values(transformed(s, T))
    assert float((a - b).abs().max()) <= 1e-7 * float(a[0])


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(-400, 400))
def test_rescaled_states_change_neither_values_nor_rank(seed, exponent):
    s = lru(6, 2, seed)
    scale = torch.logspace(0, exponent / 20, 6, dtype=F64)
    scaled = StateSpace(A=s.A, B=s.B * scale[:, None], C=s.C / scale, real_output=True)
    for pairs in (False, True):
        a, b = (balance(g.P, g.Q, pairs=pairs) for g in (gramians(s), gramians(scaled)))
        assert float(((a.sigma - b.sigma) / a.sigma).abs().max()) < 1e-9
        assert a.numerical_rank == b.numerical_rank == 12


def test_small_values_keep_their_digits():
    # Decoupled states: sigma_i = |b_i c_i| / (1 - a_i^2), over twelve orders of magnitude.
    a = torch.tensor([0.9, 0.5, 0.3, -0.7], dtype=F64)
    size = torch.tensor([1.0, 1e-4, 1e-8, 1e-12], dtype=F64)
    s = StateSpace(A=a, B=torch.diag(size), C=torch.eye(4, dtype=F64))
    want = (size / (1 - a**2)).sort(descending=True).values
    assert torch.allclose(values(s), want, rtol=1e-12, atol=0)
    b = balance(gramians(s).P, gramians(s).Q)
    assert b.numerical_rank == 4


def test_balancing_makes_both_gramians_sigma():
    g = gramians(lru(10, 4, 5))
    b = balance(g.P, g.Q)
    assert b.numerical_rank == 20
    root = b.sigma.sqrt()
    V, W = b.S @ b.Vh.mH / root, b.R @ b.U / root
    inverse = torch.linalg.inv(V)
    sigma = torch.diag(b.sigma)
    assert relative(inverse @ g.P @ inverse.mH, sigma) < 1e-9
    assert relative(V.mH @ g.Q @ V, sigma) < 1e-9
    assert relative(W.mH @ V, torch.eye(20, dtype=F64)) < 1e-10


def rank_and_sigma(s: StateSpace) -> tuple[int, torch.Tensor]:
    g = gramians(s)
    b = balance(g.P, g.Q)
    assert bool(torch.isfinite(b.sigma).all())
    assert torch.equal(b.sigma, b.sigma.sort(descending=True).values)
    assert relative(b.sigma + 1, hankel_singular_values(g.P, g.Q) + 1) < 1e-12
    return b.numerical_rank, b.sigma


def test_repeated_poles_have_the_rank_of_their_residues():
    # One input, three copies of one pole: one state seen from the input, exactly.
    A = torch.full((3,), 0.9 * np.exp(0.5j), dtype=C128)
    g0 = generator(0)
    s = StateSpace(
        A=A,
        B=torch.randn(3, 1, dtype=C128, generator=g0),
        C=torch.randn(2, 3, dtype=C128, generator=g0),
        real_output=True,
    )
    rank, sigma = rank_and_sigma(s)
    assert rank == 2
    assert float(sigma[2]) < 1e-7 * float(sigma[0])
    merged = StateSpace(A=A[:1], B=torch.ones(1, 1), C=(s.C @ s.B), real_output=True)
    assert torch.allclose(sigma[:2], rank_and_sigma(merged)[1], rtol=1e-10)


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 2),
    st.booleans(),
)
def test_the_rank_is_that_of_the_residues(seed, copies, h, real):
    # With h inputs and plenty of outputs, k copies of a pole make min(k, h) complex states. An
    # unpivoted Cholesky factor of P often exists all the same, with pivots of pure rounding.
    g0 = generator(seed)
    distinct = torch.polar(torch.tensor([0.5, 0.7, 0.9]), torch.tensor([0.4, 1.3, 2.4])).to(C128)
    A = distinct[: len(copies)].repeat_interleave(torch.tensor(copies))
    B = torch.randn(len(A), h, dtype=C128, generator=g0)
    C = torch.randn(4, len(A), dtype=C128, generator=g0)
    rank, _ = rank_and_sigma(StateSpace(A=A, B=B, C=C, real_output=real))
    assert rank == (2 if real else 1) * sum(min(k, h) for k in copies)


def test_real_poles_with_real_inputs_count_once():
    a = torch.tensor([0.9, -0.5], dtype=C128)
    s = StateSpace(A=a, B=torch.ones(2, 1), C=torch.ones(1, 2), real_output=True)
    rank, sigma = rank_and_sigma(s)
    real = StateSpace(A=a.real, B=torch.ones(2, 1), C=torch.ones(1, 2))
    assert rank == 2
    assert torch.allclose(sigma[:2], rank_and_sigma(real)[1], rtol=1e-12)


@pytest.mark.parametrize("dead", ["B", "C", "both"])
@pytest.mark.parametrize("kind", [lru, complex_diagonal, dense])
def test_zero_inputs_or_outputs_have_no_rank(kind, dead):
    s = kind(4, 2)
    B = torch.zeros_like(s.B) if dead in ("B", "both") else s.B
    C = torch.zeros_like(s.C) if dead in ("C", "both") else s.C
    rank, sigma = rank_and_sigma(replace(s, B=B, C=C, D=None))
    assert rank == 0
    assert not bool(sigma.any())


def test_a_single_dead_mode_costs_its_rank_only():
    s = lru(5, 3)
    B = s.B.clone()
    B[2] = 0
    rank, sigma = rank_and_sigma(StateSpace(A=s.A, B=B, C=s.C, real_output=True))
    alive = rank_and_sigma(s.select(torch.tensor([0, 1, 3, 4])))[1]
    assert rank == 8
    assert torch.allclose(sigma[:8], alive, rtol=1e-10)


def test_one_state_one_channel():
    s = StateSpace(A=torch.tensor([0.5]), B=torch.tensor([[3.0]]), C=torch.tensor([[-2.0]]))
    rank, sigma = rank_and_sigma(s)
    assert rank == 1
    assert float(sigma[0]) == pytest.approx(6 / 0.75, rel=1e-14)


def test_poles_at_the_edge_keep_their_values():
    # sigma = |b c| / (1 - a^2) for one state, at 1 - a = 1e-9.
    a = 1 - 1e-9
    s = StateSpace(A=torch.tensor([a], dtype=F64), B=torch.ones(1, 1), C=torch.ones(1, 1))
    assert float(values(s)[0]) == pytest.approx(1 / ((1 - a) * (1 + a)), rel=1e-14)


def test_psd_factor_reproduces_singular_and_regular_matrices():
    g0 = generator(0)
    X = torch.randn(6, 4, dtype=C128, generator=g0)
    for P in (X @ X.mH, X.mH @ X, torch.zeros(3, 3), torch.eye(3)):
        S = psd_factor(P)
        assert float((S @ S.mH - P).abs().max()) < 1e-13
    assert psd_factor(X @ X.mH).shape == (6, 4)


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("phase", [1e-3, 1e-9, 1e-12, 1e-16])
def test_nearly_real_states_are_no_negative_eigenvalues(phase, pairs):
    # The imaginary part of such a state is smaller than the rounding errors of its real part.
    modulus = torch.tensor([0.99, 0.9, 0.5], dtype=F64)
    angle = torch.tensor([phase, 1.0, 2 * phase], dtype=F64)
    B = torch.randn(3, 2, generator=generator(0)).double()
    C = torch.randn(2, 3, dtype=C128, generator=generator(1))
    s = StateSpace(A=torch.polar(modulus, angle), B=B.to(C128), C=C, real_output=True)
    g = gramians(s)
    b = balance(g.P, g.Q, pairs=pairs)
    assert 4 <= b.numerical_rank <= 6
    want = hankel_matrix_values(s, 500)[:4]
    np.testing.assert_allclose(b.sigma[:4].numpy(), want, rtol=1e-3)
    r = balanced_truncation(s, b, 3, strict=False)
    assert relative(r.system.markov(50), s.markov(50)) < 1e-6


def test_a_positive_semidefinite_float32_moment_is_accepted():
    X = torch.randn(200, 3, generator=generator(0)) @ torch.randn(3, 8, generator=generator(1))
    S = psd_factor(X.T @ X / 200)
    assert S.dtype == F64
    assert S.shape[1] == 3


@pytest.mark.parametrize(
    ("P", "message"),
    [
        (torch.diag(torch.tensor([1.0, -0.1])), "P has the eigenvalue"),
        (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "P has the eigenvalue"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not Hermitian"),
        (torch.tensor([[float("nan")]]), "non-finite"),
        (torch.zeros(2, 3), "square"),
    ],
)
def test_what_is_no_gramian_is_refused(P, message):
    with pytest.raises(InputError, match=message):
        balance(P.double(), torch.eye(P.shape[0], dtype=F64))


def test_sizes_must_agree():
    with pytest.raises(InputError, match=r"Q has shape \(3, 3\); expected \(2, 2\)"):
        hankel_singular_values(torch.eye(2), torch.eye(3))


def test_the_bound_is_twice_the_tail():
    assert truncation_bound(torch.tensor([4.0, 2.0, 1.0]), 1) == 6.0
    assert truncation_bound(torch.tensor([4.0, 2.0, 1.0]), 3) == 0.0
