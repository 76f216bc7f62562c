"""Names and state dimensions in few characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressm.report import short_names, states_text


@pytest.mark.parametrize(
    ("sites", "short"),
    [
        (["encoder.blocks.0.layer", "encoder.blocks.1.layer"], ["blocks.0", "blocks.1"]),
        (["encoder.blocks.0.layer"], ["encoder.blocks.0.layer"]),
        ([""], ["(model)"]),
        (["0", "1"], ["0", "1"]),
        (["a.mix", "b.mix"], ["a", "b"]),
        (["", "inner"], ["(model)", "inner"]),
        (["layer", "layer.layer"], ["layer", "layer.layer"]),
        (["up.3.ssm.f", "up.3.ssm.b"], ["f", "b"]),
    ],
)
def test_short_names(sites, short):
    names = short_names(sites)
    assert list(names) == sites
    assert list(names.values()) == short


word = st.sampled_from(["blocks", "layer", "0", "1", "ssm"])


@given(st.lists(st.lists(word, min_size=1, max_size=4).map(".".join), unique=True, min_size=1))
def test_short_names_stay_apart_and_are_never_empty(sites):
    names = short_names(sites)
    assert len(set(names.values())) == len(sites)
    assert all(names.values())
    assert all(name in site or name == site for site, name in names.items())


def test_states_text():
    assert states_text([64]) == "64"
    assert states_text([64, 64]) == "64, 64"
    assert states_text([64] * 6) == "6 × 64"
    assert states_text([8, 4, 4]) == "8, 4, 4"
    assert states_text([8, 4, 2, 6, 5, 7, 3]) == "2 … 8 in 7 layers"
    assert states_text([]) == ""
