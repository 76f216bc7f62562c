from dataclasses import replace

import pytest
import torch

from compressm.errors import RankError
from compressm.numerics import (
    StateSpace,
    balance,
    balanced_truncation,
    gramians,
    h2_error,
    h2_refit,
    padded,
    with_driven_parts,
    with_idle_parts_driven,
)


def system(n=10, width=3, *, real_poles=8, real_output=True):
    """Mostly real poles, so that truncations come out smaller than asked for."""
    poles = torch.polar(torch.linspace(0.3, 0.95, n, dtype=torch.float64), torch.rand(n).double())
    poles[:real_poles] = poles[:real_poles].abs().to(poles.dtype)
    return StateSpace(
        A=poles,
        B=torch.randn(n, width, dtype=torch.complex128),
        C=torch.randn(width, n, dtype=torch.complex128),
        real_output=real_output,
    )


def truncated(full, rank):
    g = gramians(full)
    return balanced_truncation(full, balance(g.P, g.Q, pairs=g.real), rank)


def smaller_than_asked(rank=5, seeds=20):
    for seed in range(seeds):
        torch.manual_seed(seed)
        full = system()
        reduction = truncated(full, rank)
        if reduction.rank < rank:
            return full, reduction
    pytest.fail("no truncation came out smaller than asked for")


def test_the_map_stays_and_the_size_is_exact():
    full, reduction = smaller_than_asked()
    filled = padded(full, reduction, 5)
    assert filled.rank == filled.system.order == 5
    torch.testing.assert_close(filled.system.markov(30), reduction.system.markov(30))
    assert "existing modes" in filled.notes[-1]


def test_a_refit_makes_use_of_the_added_modes():
    full, reduction = smaller_than_asked()
    without = h2_error(full, h2_refit(full, reduction.system))
    assert h2_error(full, h2_refit(full, padded(full, reduction, 5).system)) < without


def test_lift_and_project_grow_with_the_state():
    full, reduction = smaller_than_asked()
    filled = padded(full, reduction, 5)
    r = reduction.rank
    assert filled.lift.shape == (20, 10)
    assert filled.project.shape == (10, 20)
    kept = torch.cat([torch.arange(r), 5 + torch.arange(r)])
    torch.testing.assert_close(filled.lift[:, kept], reduction.lift)
    torch.testing.assert_close(filled.project[kept], reduction.project)
    # An added state is a mode of the full system: its input row is lifted from exactly that mode.
    B = torch.cat([full.B.real, full.B.imag])
    added = filled.system.B[r:]
    torch.testing.assert_close((filled.lift.mT @ B)[r:5], added.real)
    torch.testing.assert_close((filled.lift.mT @ B)[5 + r :], added.imag)


def test_complex_systems_are_filled_too():
    full = system(real_output=False)
    g = gramians(full)
    reduction = balanced_truncation(full, balance(g.P, g.Q), 4)
    filled = padded(full, reduction, 6)
    assert (filled.lift.shape, filled.project.shape) == ((10, 6), (6, 10))
    torch.testing.assert_close(filled.system.markov(20), reduction.system.markov(20))


def test_a_full_reduction_is_returned_as_it_is():
    full = system(real_poles=0)
    reduction = truncated(full, 4)
    assert padded(full, reduction, 4) is reduction


def test_more_than_there_is_cannot_be_had():
    full = system()
    with pytest.raises(RankError, match="10 modes"):
        padded(full, truncated(full, 4), 11)


def test_idle_imaginary_parts_get_an_input_and_change_nothing():
    full, reduction = smaller_than_asked()
    driven = with_idle_parts_driven(full, reduction.system)
    real = reduction.system.A.imag == 0
    assert bool(real.any())
    assert bool((driven.B[real].imag.abs().amax(1) > 0).all())
    torch.testing.assert_close(driven.B.real, reduction.system.B.real)
    torch.testing.assert_close(driven.markov(30), reduction.system.markov(30))


def test_a_refit_uses_the_second_real_state_and_its_direction_is_a_good_one():
    """Against random directions: the chosen one explains the error at least as well as most."""
    full, reduction = smaller_than_asked()

    def refitted(system):
        return h2_error(full, h2_refit(full, system))

    driven = with_idle_parts_driven(full, reduction.system)
    chosen = refitted(driven)
    assert chosen < refitted(reduction.system)
    idle = (reduction.system.A.imag == 0)[:, None]
    worse = 0
    for _ in range(20):
        noise = torch.randn_like(driven.B.real)
        noise *= driven.B.imag.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        B = torch.complex(driven.B.real, torch.where(idle, noise, driven.B.imag))
        other = StateSpace(A=driven.A, B=B, C=driven.C, real_output=True)
        worse += refitted(other) >= chosen
    assert worse >= 15


def test_systems_without_real_poles_stay_as_they_are():
    full = system(real_poles=0)
    g = gramians(full, real_pairs=False)
    reduced = balanced_truncation(full, balance(g.P, g.Q), 4).system
    torch.testing.assert_close(with_idle_parts_driven(full, reduced).B, reduced.B)


@pytest.mark.parametrize("groups", [None, 2])
def test_driven_parts_of_one_input_are_what_the_states_say(groups):
    """z = project x also holds for the imaginary part that was driven; exact at full rank."""
    shape = (3,) if groups is None else (groups, 3)
    A = torch.tensor([0.9, 0.5, -0.3], dtype=torch.complex128).expand(shape)
    B, C = torch.randn(2, *shape, dtype=torch.float64)
    s = StateSpace(A=A, B=B[..., None], C=C[..., None, :], real_output=True)
    g = gramians(s)
    r = balanced_truncation(s, balance(g.P, g.Q, pairs=True), 3)
    driven = replace(r.system, B=r.system.B * torch.tensor([1 + 1j, 1, 1 - 2j])[:, None])
    found = with_driven_parts(r, driven)
    u = torch.randn(40, dtype=torch.float64)

    def states(system):
        x, all_ = torch.zeros(shape, dtype=torch.complex128), []
        for v in u:
            x = system.A * x + system.B[..., 0] * v
            all_.append(torch.cat([x.real, x.imag], -1))
        return torch.stack(all_, -1)

    torch.testing.assert_close(found.project @ states(s), states(driven))
