import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressm import Elastic, Spectrum
from compressm.errors import InputError


def spectrum(sigma, **kwargs):
    values = torch.tensor(sigma, dtype=torch.float64)
    return Spectrum(values=values, state_dim=len(sigma), **kwargs)


def needing(states, of):
    """A spectrum of which so many states carry all but a little."""
    return spectrum([1.0] * states + [1e-6] * (of - states))


def test_a_full_layer_grows_an_empty_one_is_cut_and_others_stay():
    policy = Elastic(0.01)
    spectra = {"full": needing(9, 16), "right": needing(6, 16), "empty": needing(4, 16)}
    assert policy.plan(spectra) == {"full": 24, "right": 16, "empty": 8}


def test_it_grows_to_the_largest_multiple_up_to_its_limit():
    full = {"a": needing(16, 16)}
    assert Elastic(0.01, multiple_of=8, factor=1.2).plan(full) == {"a": 24}
    assert Elastic(0.01, max_rank=20).plan(full) == {"a": 20}
    assert Elastic(0.01, max_rank=20, multiple_of=8).plan(full) == {"a": 16}
    assert Elastic(0.01, max_rank=12).plan(full) == {"a": 16}


def test_nothing_happens_where_nothing_was_measured_or_nothing_is_done():
    spectra = {"unseen": spectrum([1.0] * 8, unseen="silence"), "dead": spectrum([0.0] * 8)}
    assert Elastic(0.01).plan(spectra) == {"unseen": 8, "dead": 8}


@given(
    st.lists(st.floats(1e-8, 1), min_size=2, max_size=40),
    st.floats(0.001, 0.5),
    st.floats(0.1, 1),
    st.floats(1.05, 3),
)
def test_a_step_is_not_taken_back_while_the_same_states_are_needed(values, tolerance, full, factor):
    policy = Elastic(tolerance, full=full, factor=factor, gate=0.99 / factor)
    values = sorted(values, reverse=True)
    before = spectrum(values)
    states = policy.plan({"a": before})["a"]
    grown = values + [0.0] * (states - len(values))  # states that have not trained carry nothing
    after = policy.plan({"a": spectrum(grown[:states])})["a"]
    if states > len(values):
        assert after >= states
    # What a cut leaves holds no more needed states than before, so that it is not full.
    elif states < len(values):
        assert after <= states


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tolerance": 1.0}, "tolerance"),
        ({"full": 0}, "full"),
        ({"full": 1.5}, "full"),
        ({"factor": 1.0}, "factor"),
        ({"factor": 2.0}, r"gate = 1\.67"),
        ({"max_rank": 2, "min_rank": 4}, "max_rank"),
    ],
)
def test_unusable_settings_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        Elastic(**{"tolerance": 0.01, **settings})
