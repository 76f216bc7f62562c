"""Gramians: Stein residuals, independent solvers, accuracy next to the unit circle."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov

from compressm.errors import InputError, UnstableSystemError
from compressm.numerics import Gramians, StateSpace, adjoint, cross_gramian, gramians, stack
from compressm.numerics.lti.cauchy import disc_defect, geometric_sum
from tests.numerics.systems import (
    C128,
    F64,
    complex_diagonal,
    dense,
    generator,
    lru,
    relative,
    transformed,
)

many = settings(max_examples=60)


def residuals(s: StateSpace, g: Gramians) -> tuple[float, float]:
    A = s.dense_A()
    P = A @ g.P @ A.mH + s.B @ s.B.mH
    Q = A.mH @ g.Q @ A + s.C.mH @ s.C
    return relative(P, g.P), relative(Q, g.Q)


@pytest.mark.parametrize("n", [1, 2, 7, 24])
@pytest.mark.parametrize("kind", ["lru", "complex", "dense"])
def test_gramians_solve_their_stein_equations(n, kind):
    s = {"lru": lru, "complex": complex_diagonal, "dense": dense}[kind](n, 3)
    g = gramians(s)
    real = s.realified() if kind == "lru" else s
    assert g.real == (kind == "lru")
    assert g.P.shape == (real.order, real.order)
    assert max(residuals(real, g)) < 1e-12


@pytest.mark.parametrize("kind", ["lru", "complex", "dense"])
def test_gramians_agree_with_scipy(kind):
    s = {"lru": lru, "complex": complex_diagonal, "dense": dense}[kind](9, 2, 3)
    g = gramians(s)
    s = s.realified() if kind == "lru" else s
    A, B, C = s.dense_A().numpy(), s.B.numpy(), s.C.numpy()
    P = solve_discrete_lyapunov(A, B @ B.conj().T)
    Q = solve_discrete_lyapunov(A.conj().T, C.conj().T @ C)
    np.testing.assert_allclose(g.P.numpy(), P, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(g.Q.numpy(), Q, rtol=1e-9, atol=1e-10)


def test_complex_gramians_of_a_real_output_system_are_those_of_the_complex_map():
    s, c = lru(6, 3), complex_diagonal(6, 3)
    g, h = gramians(s, real_pairs=False), gramians(c)
    assert not g.real
    assert torch.equal(g.P, h.P)
    assert torch.equal(g.Q, h.Q)


@pytest.mark.parametrize("horizon", [1, 2, 5, 64, 100])
@pytest.mark.parametrize("kind", ["lru", "complex", "dense"])
def test_finite_horizon_is_the_finite_sum(kind, horizon):
    s = {"lru": lru, "complex": complex_diagonal, "dense": dense}[kind](5, 2)
    g = gramians(s, horizon=horizon)
    assert g.kind == "finite"
    real = s.realified() if kind == "lru" else s
    P, Q, power = (
        torch.zeros_like(g.P),
        torch.zeros_like(g.Q),
        torch.eye(real.order, dtype=real.A.dtype),
    )
    for _ in range(horizon):
        P = P + (power @ real.B) @ (power @ real.B).mH
        Q = Q + (real.C @ power).mH @ (real.C @ power)
        power = real.dense_A() @ power
    assert relative(g.P, P) < 1e-12
    assert relative(g.Q, Q) < 1e-12


def test_a_long_horizon_is_the_infinite_one():
    s = lru(6, 2)
    assert relative(gramians(s, horizon=10_000).P, gramians(s).P) < 1e-13


def test_dense_and_diagonal_agree_under_a_change_of_basis():
    s = complex_diagonal(6, 2)
    T = torch.randn(6, 6, dtype=C128, generator=generator(1))
    g, d = gramians(s), gramians(transformed(s, T))
    assert relative(d.P, T @ g.P @ T.mH) < 1e-11
    inverse = torch.linalg.inv(T)
    assert relative(d.Q, inverse.mH @ g.Q @ inverse) < 1e-11


def tensor(value: complex) -> torch.Tensor:
    return torch.tensor([value], dtype=C128)


def exact(left: complex, right: complex) -> tuple[Fraction, Fraction]:
    """1 - l conj(m) in exact rational arithmetic."""
    a, b, c, d = (Fraction(v) for v in (left.real, left.imag, right.real, right.imag))
    return 1 - (a * c + b * d), -(b * c - a * d)


near = st.builds(
    lambda exponent, angle: (1 - 10.0**-exponent) * complex(np.cos(angle), np.sin(angle)),
    st.floats(0.05, 9),
    st.floats(-3.2, 3.2),
)


# Just off the diagonal, where the larger square falls below 1/2, is the hard case.
near = near | st.builds(
    lambda exponent, angle: (1 - 10.0**-exponent) * complex(np.cos(angle), np.sin(angle)),
    st.floats(6, 10),
    st.floats(-1e-6, 1e-6).map(lambda offset: np.pi / 4 + offset),
)


@many
@given(near)
def test_disc_defect_is_exact_to_rounding(pole):
    got = Fraction(float(disc_defect(tensor(pole))))
    want = exact(pole, pole)[0]
    assert abs(got - want) <= Fraction(4e-16) * abs(want)


@many
@given(near, near, st.booleans())
def test_geometric_sum_keeps_all_digits_at_the_unit_circle(left, right, close):
    right = left * (1 - 1e-12) if close else right
    got = complex(geometric_sum(tensor(left), tensor(right))[0, 0])
    re, im = exact(left, right)
    norm = re * re + im * im
    want = complex(float(re / norm), float(-im / norm))
    assert abs(got - want) <= 4e-15 * abs(want)


@many
@given(near, near, st.integers(1, 40))
def test_finite_geometric_sum_is_accurate(left, right, horizon):
    got = complex(geometric_sum(tensor(left), tensor(right), horizon)[0, 0])
    want = sum((left * right.conjugate()) ** k for k in range(horizon))
    assert abs(got - want) <= 1e-13 * horizon


def test_zero_poles_are_fine():
    s = StateSpace(A=torch.zeros(2, dtype=C128), B=torch.eye(2), C=torch.eye(2), real_output=True)
    for horizon in (None, 1, 7):
        P = gramians(s, horizon=horizon).P
        assert torch.equal(P, torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=F64)))


@pytest.mark.parametrize("real_output", [True, False])
def test_near_unstable_gramians_stay_positive_and_balanced(real_output):
    angle = torch.tensor([0.0, 0.1, 0.1 + 1e-7, 2.0, 3.1], dtype=F64)
    A = torch.polar(torch.tensor([1 - 1e-9, 1 - 1e-8, 1 - 1e-9, 1 - 1e-6, 0.5], dtype=F64), angle)
    g0 = generator(0)
    B, C = torch.randn(5, 2, dtype=C128, generator=g0), torch.randn(2, 5, dtype=C128, generator=g0)
    g = gramians(StateSpace(A=A, B=B, C=C, real_output=real_output))
    for X in (g.P, g.Q):
        assert bool(torch.isfinite(X).all())
        values = torch.linalg.eigvalsh(X)
        assert values[0] > -1e-13 * values[-1]


def test_cross_gramian_is_the_block_of_the_joint_one():
    a, b = lru(5, 3), lru(3, 3, 1)
    joint = gramians(stack(a, b)).P
    rows = torch.cat([torch.arange(5), torch.arange(5) + 8])
    columns = torch.cat([torch.arange(5, 8), torch.arange(5, 8) + 8])
    assert relative(cross_gramian(a, b), joint[rows][:, columns]) < 1e-14


@pytest.mark.parametrize("horizon", [None, 13])
def test_cross_gramian_of_mixed_dense_and_diagonal(horizon):
    a, b = lru(5, 3), lru(3, 3, 1)
    a_dense = replace(a, A=torch.diag(a.A), D=None, diagonal=False)
    want = cross_gramian(a, b, horizon=horizon)
    assert relative(cross_gramian(a_dense, b, horizon=horizon), want) < 1e-12
    real_dense, c = dense(4, 3), complex_diagonal(3, 3)
    X = cross_gramian(real_dense, c, horizon=horizon)
    if horizon is None:
        assert (
            relative(real_dense.A.to(C128) @ X * c.A.conj() + real_dense.B.to(C128) @ c.B.mH, X)
            < 1e-12
        )


def test_observability_is_the_controllability_of_the_adjoint():
    s = lru(5, 3)
    dual = adjoint(s)
    assert torch.equal(gramians(s).Q, cross_gramian(dual, dual))


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_unstable_systems_are_refused(kind):
    s = complex_diagonal(4, 2)
    A = s.A.clone()
    A[2] = 1.25
    A = A if kind == "diagonal" else torch.diag(A)
    with pytest.raises(UnstableSystemError, match=r"1\.25"):
        gramians(StateSpace(A=A, B=s.B, C=s.C, diagonal=kind == "diagonal"))


@pytest.mark.parametrize("horizon", [0, -3, 2.5])
def test_bad_horizons_are_refused(horizon):
    with pytest.raises(InputError, match="horizon"):
        gramians(lru(3, 2), horizon=horizon)


def test_float32_input_is_computed_in_float64():
    s = lru(6, 2)
    single = StateSpace(
        A=s.A.to(torch.complex64), B=s.B.to(torch.complex64), C=s.C.to(torch.complex64),
        real_output=True,
    )  # fmt: skip
    g = gramians(single)
    assert g.P.dtype == F64
    assert max(residuals(single.realified(), g)) < 1e-13
