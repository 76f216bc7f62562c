"""H2 and H-infinity norms against sums and dense independent grids."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compressm.errors import UnstableSystemError
from compressm.numerics import StateSpace, difference, h2_error, h2_norm, hinf_error, hinf_norm
from tests.numerics.systems import (
    C128,
    F64,
    complex_diagonal,
    complex_normal,
    dense,
    generator,
    lru,
)

KINDS = {"lru": lru, "complex": complex_diagonal, "dense": dense}


def grid_norm(s: StateSpace, points: int) -> float:
    """The largest singular value over a dense uniform grid of the whole circle."""
    omega = torch.linspace(-math.pi, math.pi, points, dtype=F64)
    return max(
        float(torch.linalg.matrix_norm(s.transfer(part), 2).max()) for part in omega.split(5_000)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_h2_norm_is_the_energy_of_the_impulse_response(kind):
    s = KINDS[kind](5, 3, 2)
    h = s.markov(1500).clone()
    if s.D is not None:
        h[0] += s.dense_D()
    assert h2_norm(s) == pytest.approx(float(h.norm()), rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_h2_error(kind):
    a, b = KINDS[kind](5, 3, 2), KINDS[kind](3, 3, 4)
    h = a.markov(1500) - b.markov(1500)
    if a.D is not None:
        h[0] += a.dense_D() - b.dense_D()
    assert h2_error(a, b) == pytest.approx(float(h.norm()), rel=1e-9)
    assert h2_error(a, a) < 1e-6 * h2_norm(a)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(sorted(KINDS)))
@example(seed=1404, n=2, kind="dense")  # two grid points a rounding apart, at the peak
def test_hinf_norm_is_at_least_a_dense_grid_and_hardly_more(seed, n, kind):
    s = KINDS[kind](n, 2, seed)
    dense_grid, found = grid_norm(s, 10_001), hinf_norm(s)
    assert found >= dense_grid * (1 - 1e-9)
    assert found <= dense_grid * (1 + 1e-3)


def test_a_needle_is_found():
    # A resonance of width 1e-8 next to a broad one: no uniform grid sees it.
    A = torch.tensor([(1 - 1e-8) * complex(math.cos(1.2345), math.sin(1.2345)), 0.5], dtype=C128)
    B = torch.tensor([[1e-6], [1.0]]).to(C128)
    s = StateSpace(A=A, B=B, C=torch.ones(1, 2).to(C128))
    at_peak = float(s.transfer(torch.tensor([1.2345], dtype=F64)).abs())
    assert at_peak > 50
    assert at_peak * (1 - 1e-9) <= hinf_norm(s) <= at_peak * (1 + 1e-3)


def test_one_state_has_a_known_norm():
    s = StateSpace(
        A=torch.tensor([-0.9], dtype=F64), B=torch.tensor([[2.0]]), C=torch.tensor([[3.0]])
    )
    assert hinf_norm(s) == pytest.approx(6 / 0.1, rel=1e-12)
    assert h2_norm(s) == pytest.approx(6 / math.sqrt(1 - 0.81), rel=1e-12)


def test_a_symmetric_grid_covers_real_maps():
    s = lru(6, 3, 9)
    flipped = StateSpace(A=s.A.conj(), B=s.B.conj(), C=s.C.conj(), D=s.D, real_output=True)
    assert hinf_norm(flipped) == pytest.approx(hinf_norm(s), rel=1e-9)


def test_hinf_error_of_wide_layers_uses_few_directions():
    g = generator(0)
    a = StateSpace(
        A=lru(3, 1).A, B=complex_normal(3, 40, g=g), C=complex_normal(30, 3, g=g), real_output=True
    )
    b = a.select(torch.tensor([0, 2]))
    assert hinf_error(a, b) == pytest.approx(grid_norm(difference(a, b), 4001), rel=1e-3)
    assert hinf_error(a, a) < 1e-9 * hinf_norm(a)


def test_feed_through_counts():
    s = lru(4, 2)
    plain = StateSpace(A=s.A, B=s.B, C=s.C, real_output=True)
    gap = StateSpace(A=s.A, B=s.B, C=s.C, D=torch.tensor([3.0, -1.0]), real_output=True)
    assert hinf_error(gap, plain) == pytest.approx(3.0, rel=1e-9)
    assert h2_error(gap, plain) == pytest.approx(math.sqrt(10), rel=1e-7)


def test_zero_systems_have_zero_norm():
    s = lru(3, 2)
    dead = StateSpace(A=s.A, B=torch.zeros_like(s.B), C=s.C, real_output=True)
    assert h2_norm(dead) == 0
    assert hinf_norm(dead) == 0


def test_unstable_systems_are_refused():
    s = StateSpace(A=torch.tensor([1.0]), B=torch.ones(1, 1), C=torch.ones(1, 1))
    for norm in (h2_norm, hinf_norm):
        with pytest.raises(UnstableSystemError, match="modulus 1"):
            norm(s)
