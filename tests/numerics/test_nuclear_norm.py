"""The sum of the Hankel singular values, and its gradient against differences and closed forms."""

import math
from dataclasses import replace

import pytest
import torch

from compressm.errors import UnstableSystemError
from compressm.numerics import (
    StateSpace,
    gramians,
    hankel_nuclear_norm,
    hankel_singular_values,
)
from tests.numerics.systems import C128, F64, complex_diagonal, generator, lru

NAMES = ("A", "B", "C")


def with_gradients(system):
    leaves = {name: getattr(system, name).clone().requires_grad_() for name in NAMES}
    hankel_nuclear_norm(replace(system, **leaves)).backward()
    return [leaves[name].grad for name in NAMES]


def grouped(*systems):
    return StateSpace(
        A=torch.stack([s.A for s in systems]),
        B=torch.stack([s.B for s in systems]),
        C=torch.stack([s.C for s in systems]),
        real_output=systems[0].real_output,
    )


@pytest.mark.parametrize("system", [lru(5, 3), complex_diagonal(4, 2)], ids=["real map", "complex"])
def test_it_is_the_sum_of_what_is_measured(system):
    g = gramians(system)
    expected = hankel_singular_values(g.P, g.Q, pairs=g.real).sum()
    torch.testing.assert_close(hankel_nuclear_norm(system), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("system", [lru(4, 2), complex_diagonal(3, 2)], ids=["real map", "complex"])
def test_its_gradient_is_that_of_finite_differences(system):
    def norm(A, B, C):
        return hankel_nuclear_norm(replace(system, A=A, B=B, C=C))

    leaves = [getattr(system, name).clone().requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(norm, leaves, rtol=1e-5, atol=1e-7)


def test_one_complex_state_has_a_closed_form():
    # sigma = |b| |c| / (1 - |a|^2) for x_k = a x_{k-1} + b u_k, y_k = c x_k.
    a, b, c = 0.6 + 0.3j, 1.5 - 0.5j, 0.7 + 2.0j
    system = StateSpace(
        A=torch.tensor([a], dtype=C128),
        B=torch.tensor([[b]], dtype=C128),
        C=torch.tensor([[c]], dtype=C128),
    )
    defect = 1 - abs(a) ** 2
    sigma = abs(b) * abs(c) / defect
    assert float(hankel_nuclear_norm(system)) == pytest.approx(sigma)
    dA, dB, dC = (complex(g) for g in with_gradients(system))
    assert dA == pytest.approx(2 * a * sigma / defect)
    assert dB == pytest.approx(sigma * b / abs(b) ** 2)
    assert dC == pytest.approx(sigma * c / abs(c) ** 2)


def test_repeated_values_have_a_finite_gradient():
    # Two copies of one state on channels of their own: every singular value is there twice.
    one = lru(1, 1)
    eye = torch.eye(2, dtype=C128)
    twice = StateSpace(A=one.A.repeat(2), B=one.B * eye, C=one.C * eye, real_output=True)
    single, double = with_gradients(one), with_gradients(twice)
    torch.testing.assert_close(double[0], single[0].repeat(2))
    torch.testing.assert_close(double[1].diagonal(), single[1][0, 0].repeat(2))
    # Coupling them is a direction in which the norm has a minimum.
    assert float((double[1] - double[1].diagonal().diag()).abs().max()) < 1e-12


def test_a_state_that_does_nothing_has_a_finite_gradient():
    system = lru(4, 2)
    system.B[1], system.C[:, 2] = 0, 0
    small = system.select(torch.tensor([0, 3]))
    found = hankel_nuclear_norm(system)
    torch.testing.assert_close(found, hankel_nuclear_norm(small), rtol=1e-9, atol=0)
    assert all(bool(torch.isfinite(g).all()) for g in with_gradients(system))


def test_a_dead_layer_has_norm_zero_and_gradient_zero():
    system = replace(lru(3, 2), B=torch.zeros(3, 2, dtype=C128))
    assert float(hankel_nuclear_norm(system)) == 0
    assert all(float(g.abs().max()) == 0 for g in with_gradients(system))


def test_groups_add_up():
    systems = [lru(3, 1, seed) for seed in range(3)]
    whole = grouped(*systems)
    expected = sum(float(hankel_nuclear_norm(s)) for s in systems)
    assert float(hankel_nuclear_norm(whole)) == pytest.approx(expected, rel=1e-10)
    for together, *alone in zip(
        with_gradients(whole), *(with_gradients(s) for s in systems), strict=True
    ):
        torch.testing.assert_close(together, torch.stack(alone), rtol=1e-8, atol=1e-10)


def test_it_is_a_norm_of_the_map_and_not_of_its_coordinates():
    system = lru(5, 2)
    turn = torch.randn(5, dtype=F64, generator=generator(1)).exp()
    rescaled = replace(system, B=system.B * turn[:, None], C=system.C / turn)
    same = hankel_nuclear_norm(system)
    torch.testing.assert_close(hankel_nuclear_norm(rescaled), same, rtol=1e-9, atol=0)
    louder = replace(system, C=-3 * system.C)
    torch.testing.assert_close(hankel_nuclear_norm(louder), 3 * same, rtol=1e-9, atol=0)


def test_an_unstable_system_has_none():
    system = replace(lru(2, 1), A=torch.tensor([0.5, math.nextafter(1.0, 2.0)], dtype=C128))
    with pytest.raises(UnstableSystemError):
        hankel_nuclear_norm(system)
