"""Re-diagonalisation: real and complex, repeated, defective, real eigenvalues."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressm.numerics import diagonalise
from compressm.numerics.lti.coordinates import (
    fold_readout,
    split_real,
    stack_state,
    unfold_readout,
)
from compressm.numerics.lti.diagonal import clamp_poles
from tests.numerics.systems import C128, F64, complex_normal, generator, relative


def rebuilt(A: Tensor) -> Tensor:
    d = diagonalise(A)
    if A.is_complex():
        return (d.basis * d.poles) @ d.inverse
    return d.basis @ stack_state(d.poles[:, None] * split_real(d.inverse))


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_random_matrices_are_rebuilt(seed, m, real):
    A = complex_normal(m, m, g=generator(seed))
    A = A.real if real else A
    d = diagonalise(A)
    assert relative(rebuilt(A), A) < 1e-9
    if real:
        singles = int((d.poles.imag == 0).sum())
        assert 2 * len(d.poles) - singles == m
        assert bool((d.poles.imag >= 0).all())
        assert float((d.basis @ d.inverse - torch.eye(m)).abs().max()) < 1e-9


def test_equal_real_eigenvalues_share_states_in_twos():
    d = diagonalise(torch.diag(torch.tensor([0.5, 0.5, -0.25, 0.5, 0.9], dtype=F64)))
    assert sorted(d.poles.real.tolist()) == [-0.25, 0.5, 0.5, 0.9]
    assert not d.notes
    assert relative(rebuilt(0.5 * torch.eye(4, dtype=F64)), 0.5 * torch.eye(4, dtype=F64)) < 1e-14
    assert len(diagonalise(0.5 * torch.eye(4, dtype=F64)).poles) == 2


def test_close_real_eigenvalues_near_the_edge_stay_apart():
    A = torch.diag(torch.tensor([1 - 1e-9, 1 - 2e-9], dtype=F64))
    assert len(diagonalise(A).poles) == 2


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_jordan_blocks_are_perturbed_and_noted(size, real):
    A = 0.6 * torch.eye(size, dtype=F64) + torch.diag(torch.ones(size - 1, dtype=F64), 1)
    A = A if real else A.to(C128)
    assert relative(rebuilt(A), A) < 1e-8
    notes = diagonalise(A).notes
    assert any("perturbed" in note for note in notes)
    assert torch.equal(diagonalise(A).poles, diagonalise(A).poles)


def test_a_rotated_jordan_block_notes_its_condition():
    A = 0.6 * torch.eye(3, dtype=F64) + torch.diag(torch.ones(2, dtype=F64), 1)
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=F64, generator=generator(0)))[0]
    A = Q @ A @ Q.T
    assert relative(rebuilt(A), A) < 1e-8
    assert any("ill-conditioned" in note for note in diagonalise(A).notes)


def test_zero_matrix():
    d = diagonalise(torch.zeros(3, 3, dtype=F64))
    assert not bool(d.poles.any())
    assert not d.notes


def test_coordinates_fold_back():
    b, c = complex_normal(4, 3, g=generator(0)), complex_normal(3, 4, g=generator(1))
    assert torch.equal(split_real(stack_state(b)), b)
    assert torch.equal(fold_readout(unfold_readout(c)), c)
    x = complex_normal(4, 2, g=generator(2))
    assert relative(unfold_readout(c) @ stack_state(x), (c @ x).real) < 1e-14


def test_clamping_touches_unstable_poles_only():
    poles = torch.tensor([0.5j, 1.2, -1.0, 0.999], dtype=C128)
    clamped, notes = clamp_poles(poles, lambda: torch.tensor([0.9, 0.1], dtype=C128))
    want = torch.tensor([0.5j, 0.9, -0.9, 0.999], dtype=C128)
    assert float((clamped - want).abs().max()) < 1e-15
    assert len(notes) == 1
    assert "2 poles clamped to modulus 0.9 (largest was 1.2)" in notes[0]
    assert clamp_poles(clamped, lambda: clamped) == (clamped, ())
