import itertools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressm import Spectrum
from compressm.errors import InputError

values = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=30)


def spectrum(sigma, per_state=1, **kwargs):
    sigma = torch.tensor(sigma, dtype=torch.float64)
    return Spectrum(values=sigma, state_dim=len(sigma) // per_state, per_state=per_state, **kwargs)


@given(values, st.floats(0, 0.99))
def test_rank_for_energy_is_the_smallest_that_keeps_enough(sigma, tolerance):
    s = spectrum(sigma)
    rank = s.rank_for_energy(tolerance)
    if s.total == 0:
        assert (rank, s.energy(rank)) == (0, None)
        return
    assert s.energy(rank) >= 1 - tolerance - 1e-9
    if rank:
        assert s.discarded(rank - 1) > tolerance * s.total


def test_known_values():
    s = spectrum([4.0, 3.0, 2.0, 1.0])
    assert s.energy(2) == pytest.approx(0.7)
    assert s.bound(2) == pytest.approx(6.0)
    assert [s.rank_for_energy(t) for t in (0.0, 0.1, 0.3, 0.29, 0.99)] == [4, 3, 2, 3, 1]


def test_two_values_for_each_complex_state():
    s = spectrum([4.0, 3.0, 2.0, 1.0], per_state=2)
    assert s.state_dim == 2
    assert s.energy(1) == pytest.approx(0.7)
    assert s.rank_for_energy(0.1) == 2


def test_a_zero_spectrum_keeps_nothing_and_has_no_energy_to_share():
    s = spectrum([0.0, 0.0])
    assert (s.rank_for_energy(0.1), s.energy(0), s.numerical_rank) == (0, None, 0)


def test_values_are_sorted_and_tail_keeps_its_digits():
    s = spectrum([1e-14, 1.0, 3e-14])
    assert s.values.tolist() == [1.0, 3e-14, 1e-14]
    assert s.discarded(1) == pytest.approx(4e-14, rel=1e-12)


def test_numerical_rank_ignores_rounding():
    assert spectrum([1.0, 1e-3, 1e-18, 0.0]).numerical_rank == 2
    assert spectrum([1.0, 1e-3, 1e-4, 0.0], per_state=2).numerical_rank == 2


def test_no_bound_without_guarantee():
    assert spectrum([1.0, 0.5], guaranteed=False).bound(1) is None


@pytest.mark.parametrize("bad", [[1.0, float("nan")], [-1.0], [float("inf")]])
def test_unusable_values_are_refused(bad):
    with pytest.raises(InputError, match="singular values"):
        spectrum(bad)


def test_rank_out_of_range_is_refused():
    with pytest.raises(InputError, match="0 … 2"):
        spectrum([1.0, 0.5]).energy(3)


def test_real_eigenvalues_leave_room_that_holds_no_energy():
    pairs = Spectrum(values=torch.tensor([4.0, 3.0, 2.0, 1.0]), state_dim=2, per_state=2)
    assert pairs.energy(1) == pairs.energy(1, 2) == pairs.energy(1, 4) == pytest.approx(0.7)
    assert pairs.energy(1, 1) == pytest.approx(0.4)


def test_a_layer_that_cannot_have_every_number_of_states():
    s = spectrum([1.0] * 12, ranks={12: 0.0, 4: 9.0, 2: 11.0, 1: 12.0})
    assert [s.at_least(rank) for rank in (1, 2, 3, 5, 12)] == [1, 2, 4, 12, 12]
    assert [s.at_most(rank) for rank in (0, 1, 3, 11, 12)] == [0, 1, 2, 4, 12]
    assert s.notes == ("of its 12 states it can keep 4, 2, 1 and no other number",)
    assert [s.discarded(rank) for rank in (0, 1, 3, 4, 11, 12)] == [12, 12, 11, 9, 9, 0]
    assert [s.rank_for_energy(tolerance) for tolerance in (0.0, 0.74, 0.75, 0.95)] == [12, 12, 4, 2]
    free = spectrum([1.0] * 12)
    assert free.at_least(5) == free.at_most(5) == 5


class Real:
    """Every state holds one direction, and from the fourth on two."""

    def __call__(self, states):
        return min(states, 3) + 2 * max(states - 3, 0)


def test_states_that_hold_one_direction_each():
    s = spectrum([5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], per_state=2, room=Real())
    assert [s.directions(rank) for rank in range(6)] == [0, 1, 2, 3, 5, 10]
    assert s.energy(2) == pytest.approx(9 / 20)
    assert s.bound(3) == pytest.approx(16.0)
    assert [s.rank_for_energy(share) for share in (0.0, 0.25, 0.4, 0.55, 0.75)] == [5, 4, 3, 2, 1]
    assert pickle.loads(pickle.dumps(s)).bound(3) == s.bound(3)


@given(values, st.floats(0, 0.99), st.lists(st.integers(1, 2), min_size=30, max_size=30))
def test_the_first_rank_whose_directions_hold_the_energy(sigma, tolerance, halves):
    """Whatever the states hold, and wherever a search for them begins."""
    sigma = [*sigma, *sigma]
    held = [0, *itertools.accumulate(halves)]
    s = spectrum(sigma, per_state=2, room=held.__getitem__)
    rank = s.rank_for_energy(tolerance)
    slack = 1e-9 * s.total
    assert s.discarded(rank) <= tolerance * s.total + slack
    assert rank == 0 or s.discarded(rank - 1) > tolerance * s.total - slack


def test_states_that_gain_little_until_others_join_them():
    """Values are means then, and what so many states leave is what it is."""
    s = spectrum([3.0, 3.0, 3.0, 1.0], left=[10.0, 9.0, 7.0, 1.0, 0.0])
    assert [s.energy(rank) for rank in range(5)] == pytest.approx([0, 0.1, 0.3, 0.9, 1])
    assert [s.rank_for_energy(share) for share in (0.0, 0.5, 0.7, 0.95)] == [4, 3, 2, 1]
    worse = spectrum([5.0, 5.0], left=[10.0, 12.0, 0.0])  # they had cancelled each other
    assert (worse.energy(1), worse.rank_for_energy(0.9)) == (0.0, 2)
