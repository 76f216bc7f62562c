"""Balancing in closed form against Gramians that are computed, factored and multiplied."""

import pytest
import torch

from compressm.errors import InputError, UnstableSystemError
from compressm.numerics import (
    StateSpace,
    balance,
    balance_closed,
    balanced_truncation,
    gramians,
    hinf_error,
    truncation_bound,
)

F64, C128 = torch.float64, torch.complex128


def system(modulus, angle, *, groups=None, seed=0):
    """Random residues on these poles."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(modulus),) if groups is None else (groups, len(modulus))
    turns = torch.rand(shape, dtype=F64, generator=g) * 1e-3
    A = torch.polar(modulus.expand(shape), angle + (0 if groups is None else turns))
    B, C = (torch.randn(*shape, dtype=C128, generator=g) for _ in range(2))
    return StateSpace(A=A, B=B[..., None], C=C[..., None, :], real_output=True)


POLES = {
    "spread": (torch.linspace(0.3, 0.95, 9, dtype=F64), torch.linspace(0.2, 2.8, 9, dtype=F64)),
    "close together": (torch.full((9,), 0.9, dtype=F64), torch.linspace(1, 1.01, 9, dtype=F64)),
    "close to the circle": (
        1 - torch.logspace(-9, -1, 9, dtype=F64),
        torch.linspace(0.0, 3.0, 9, dtype=F64),
    ),
    "real": (torch.linspace(0.1, 0.9, 9, dtype=F64), torch.zeros(9, dtype=F64)),
    "the same": (torch.full((9,), 0.8, dtype=F64), torch.full((9,), 0.7, dtype=F64)),
}


@pytest.fixture(params=[(name, groups) for name in POLES for groups in (None, 3)], ids=str)
def siso(request):
    name, groups = request.param
    return system(*POLES[name], groups=groups)


def close(found, expected, size):
    assert float((found - expected).abs().amax() / size) <= 1e-12


def test_the_factors_are_those_of_the_gramians(siso):
    found, g = balance_closed(siso), gramians(siso)
    for factor, moment in ((found.S, g.P), (found.R, g.Q)):
        # A nearly real state has an imaginary part that is small beside its modulus.
        variance = moment.diagonal(dim1=-2, dim2=-1).unflatten(-1, (2, siso.order)).sum(-2)
        size = variance.sqrt().tile(2)
        unit = size[..., :, None] * size[..., None, :]
        close((factor @ factor.mT) / unit, moment / unit, 1.0)


def test_the_values_are_the_hankel_singular_values(siso):
    found, g = balance_closed(siso), gramians(siso)
    slow = balance(g.P, g.Q, pairs=True)
    assert float(((found.sigma - slow.sigma).abs() / slow.sigma[..., :1]).max()) <= 1e-8
    assert bool((found.sigma.diff(dim=-1) <= 0).all())
    rebuilt = (found.U * found.sigma[..., None, :]) @ found.Vh
    close(rebuilt, found.R.mT @ found.S, float(found.sigma.max()))
    eye = torch.eye(found.U.shape[-1], dtype=F64).expand_as(found.U)
    close(found.U.mT @ found.U, eye, 1.0)
    close(found.Vh @ found.Vh.mT, eye, 1.0)


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("name", ["spread", "close together", "real"])
def test_what_is_cut_stays_within_the_bound(name, rank):
    s = system(*POLES[name], groups=2)
    cut = balanced_truncation(s, balance_closed(s), rank, strict=False)
    bound = truncation_bound(cut.sigma, cut.orders)
    assert hinf_error(s, cut.system) <= bound * (1 + 1e-6) + 1e-9 * float(cut.sigma.max())


def test_states_that_do_nothing_have_no_rank():
    s = system(*POLES["spread"])
    s.B[6:], s.C[..., :2] = 0, 0
    found, g = balance_closed(s), gramians(s)
    slow = balance(g.P, g.Q, pairs=True)
    assert int(found.ranks) == int(slow.ranks) == 8
    close(found.sigma, slow.sigma, float(slow.sigma[0]))
    s.B[:] = 0
    assert int(balance_closed(s).ranks) == 0
    assert not bool(balance_closed(s).sigma.any())


def test_other_systems_are_refused():
    s = system(*POLES["spread"])
    with pytest.raises(InputError, match="got 2 inputs and 1 outputs"):
        balance_closed(StateSpace(A=s.A, B=s.B.expand(-1, 2), C=s.C, real_output=True))
    with pytest.raises(UnstableSystemError):
        balance_closed(StateSpace(A=s.A * 2, B=s.B, C=s.C, real_output=True))
