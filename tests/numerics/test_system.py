"""StateSpace and the systems composed of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from compressm.errors import InputError, UnstableSystemError
from compressm.numerics import StateSpace, adjoint, difference, stack
from tests.numerics.systems import C128, F64, complex_diagonal, dense, lru, relative, simulate

SYSTEMS = {"lru": lru(5, 3), "complex": complex_diagonal(5, 3), "dense": dense(5, 3)}


@pytest.fixture(params=SYSTEMS, ids=list(SYSTEMS))
def system(request) -> StateSpace:
    return SYSTEMS[request.param]


def test_markov_parameters_are_the_impulse_response(system):
    impulse = torch.zeros(system.inputs, 7, system.inputs, dtype=F64)
    impulse[torch.arange(system.inputs), 0, torch.arange(system.inputs)] = 1
    _, y = simulate(StateSpace(**{**vars(system), "D": None}), impulse)
    assert relative(system.markov(7).to(C128), y.permute(1, 2, 0).to(C128)) < 1e-13


def test_transfer_is_the_fourier_series_of_the_markov_parameters(system):
    omega = torch.tensor([-2.0, 0.0, 0.3, math.pi], dtype=F64)
    h = system.markov(800).to(C128)
    series = torch.einsum("fk,koi->foi", torch.exp(-1j * omega[:, None] * torch.arange(800)), h)
    if system.D is not None:
        series = series + system.dense_D()
    assert relative(system.transfer(omega), series) < 1e-11


def test_realified_is_the_same_map():
    s = lru(6, 3)
    real = s.realified()
    assert not real.is_complex
    assert real.order == 12
    assert relative(real.markov(9), s.markov(9)) < 1e-13
    assert torch.equal(real.D, s.D)


def test_realified_keeps_a_dense_complex_system():
    s = lru(4, 2)
    full = replace(s, A=torch.diag(s.A), D=None, diagonal=False)
    assert relative(full.realified().markov(9), s.markov(9)) < 1e-13


def test_realified_refuses_a_complex_output():
    with pytest.raises(InputError, match="real_output"):
        complex_diagonal(3, 2).realified()


def test_adjoint_transposes_the_markov_parameters(system):
    expected = system.markov(6).mH if not system.real_output else system.markov(6).mT
    assert relative(adjoint(system).markov(6), expected) < 1e-13
    assert relative(adjoint(adjoint(system)).B, system.B) == 0


@pytest.mark.parametrize("other", [dense(3, 3, 1), complex_diagonal(3, 3, 1)])
def test_stack_and_difference(other):
    a = dense(5, 3) if not other.diagonal else complex_diagonal(5, 3)
    joint, error = stack(a, other), difference(a, other)
    both = torch.cat([a.markov(6), other.markov(6)], 1)
    assert relative(joint.markov(6), both) < 1e-13
    assert relative(error.markov(6), a.markov(6) - other.markov(6)) < 1e-13
    assert joint.diagonal == (a.diagonal and other.diagonal)


def test_difference_subtracts_the_feed_through_and_drops_an_equal_one():
    a, b = lru(5, 3), lru(4, 3, 1)
    omega = torch.tensor([0.1, 1.0], dtype=F64)
    expected = a.transfer(omega) - b.transfer(omega)
    assert relative(difference(a, b).transfer(omega), expected) < 1e-13
    assert difference(a, a).D is None
    assert tuple(stack(a, b).D.shape) == (6, 3)


def test_difference_needs_equal_widths_and_kinds():
    with pytest.raises(InputError, match="3 and 2 inputs"):
        difference(lru(4, 3), lru(4, 2))
    with pytest.raises(InputError, match="real_output"):
        stack(lru(4, 3), complex_diagonal(4, 3))


def test_select_keeps_modes_as_they_are():
    s, kept = lru(5, 3), torch.tensor([4, 1])
    small = s.select(kept)
    assert torch.equal(small.A, s.A[kept])
    assert torch.equal(small.B, s.B[kept])
    assert torch.equal(small.C, s.C[:, kept])
    with pytest.raises(InputError, match="diagonal"):
        dense(4, 2).select(kept)


def test_double_detaches_and_promotes_any_layout():
    s = lru(5, 3)
    base = s.C.to(torch.complex64).T.contiguous().requires_grad_()
    odd = StateSpace(A=s.A.to(torch.complex64), B=s.B.to(torch.complex64), C=base.T)
    d = odd.double()
    assert d.A.dtype == d.B.dtype == d.C.dtype == C128
    assert not d.C.requires_grad
    assert d.double() is d
    assert relative(d.markov(5), complex_diagonal(5, 3).markov(5)) < 1e-6


def test_real_tensors_stay_real():
    s = StateSpace(A=torch.tensor([0.5]), B=torch.ones(1, 1), C=torch.ones(1, 1))
    assert s.markov(3).dtype == F64
    assert s.markov(3).flatten().tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": torch.zeros(2, 3), "diagonal": False}, "A has shape"),
        ({"A": torch.zeros(0)}, "A has shape"),
        ({"B": torch.zeros(3, 2)}, r"B has shape \(3, 2\); expected \(2, H_in\)"),
        ({"C": torch.zeros(2, 3)}, "C has shape"),
        ({"D": torch.zeros(3)}, "D has shape"),
        ({"A": torch.eye(2)}, r"expected \(2, 2, H_in\), as A has N=2 and G=2; diagonal=True"),
        ({"A": torch.zeros(2), "diagonal": False}, "expected \\(N, N\\)"),
        ({"B": torch.tensor([[1.0, math.nan], [math.inf, 1.0]])}, "B holds 2 non-finite"),
    ],
)
def test_bad_shapes_and_values_are_refused(change, message):
    good = {"A": torch.zeros(2), "B": torch.ones(2, 2), "C": torch.ones(2, 2), "D": torch.ones(2)}
    with pytest.raises(InputError, match=message):
        StateSpace(**{**good, **change})


@pytest.mark.parametrize("bad", [1.0, -1.0, 1j, 0.8 + 0.6j, 1.0 + 2**-52, 3.0])
def test_unstable_poles_are_named(bad):
    A = torch.tensor([0.5, bad, 0.1], dtype=C128)
    s = StateSpace(A=A, B=torch.ones(3, 1), C=torch.ones(1, 3))
    with pytest.raises(UnstableSystemError, match=r"eigenvalue 1 of A .* 1 of 3"):
        s.require_stable()


def test_a_pole_just_inside_is_stable_and_one_within_rounding_of_the_circle_is_not():
    def system(pole):
        return StateSpace(A=torch.tensor([pole], dtype=F64), B=torch.ones(1, 1), C=torch.ones(1, 1))

    s = system(1 - 1e-14)
    assert s.require_stable() is s
    with pytest.raises(UnstableSystemError, match="eigenvalue 0"):
        system(1 - 2.0**-53).require_stable()
