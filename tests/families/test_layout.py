"""One declaration of where the states are, and what follows from it, entry by entry."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from compressm.errors import InputError
from compressm.families.layout import Layout, StateAxis, ratio

TWO = ("write", "read")
AXES = {
    # labels along the axis, N = 3: role, group, state; "." is something else
    "one": (StateAxis(0), "s00 s01 s02"),
    "led": (StateAxis(0, roles=TWO, lead=2), ". . w00 w01 w02 r00 r01 r02"),
    "by role": (
        StateAxis(0, roles=TWO, groups=2, lead=1, tail=2),
        ". w00 w01 w02 w10 w11 w12 r00 r01 r02 r10 r11 r12 . .",
    ),
    "by group": (
        StateAxis(0, roles=("read", "write"), groups=2, gap=2, tail=1),
        "r00 r01 r02 w00 w01 w02 . . r10 r11 r12 w10 w11 w12 . . .",
    ),
    "strands": (
        StateAxis(
            0,
            roles=("write", "write", "read", "decay"),
            groups=2,
            lead=1,
            gap=1,
            strands=(2, 1, 1),
            skips=(0, 1, 2),
        ),
        ". w00 w00 w01 w01 w02 w02 . r00 r01 r02 . . d00 d01 d02 ."
        " w10 w10 w11 w11 w12 w12 . r10 r11 r12 . . d10 d11 d12 .",
    ),
}


@pytest.fixture(params=AXES)
def declared(request):
    axis, labels = AXES[request.param]
    return axis, labels.split()


def test_entries_and_rows_are_where_the_labels_are(declared):
    axis, labels = declared
    assert axis.count(len(labels)) == 3
    assert axis.count(len(labels) + 1) in (None, 4)
    for r, role in enumerate(axis.roles):
        for g in range(axis.groups):
            found = [labels[i] for i in axis.entries(3)[r, g]]
            assert found == [f"{role[0]}{g}{n}" for n in range(3)]
        runs = axis.roles.count(role)
        assert [labels[i][0] for i in axis.rows(role, 3)] == [role[0]] * 3 * axis.groups * runs
    assert len(axis.rows("state", 3)) == 3 * ("state" in axis.roles)


def test_a_choice_keeps_what_it_names_and_everything_else_in_order(declared):
    axis, labels = declared
    chosen = torch.tensor([[0, 2], [1, 2]])[: axis.groups]
    names = {f"{g}{n}" for g, row in enumerate(chosen.tolist()) for n in row}
    kept = [labels[i] for i in axis.kept(3, chosen)]
    assert kept == [label for label in labels if label == "." or label[1:] in names]
    with pytest.raises(InputError, match="one row for each group"):
        axis.kept(3, chosen[0])


def test_padding_is_what_a_choice_of_the_first_states_undoes(declared):
    axis, labels = declared
    value = torch.arange(1.0, len(labels) + 1)
    padded = axis.padded(value, 3, 5)
    assert padded.shape == axis.shape(value.shape, 3, 5)
    assert axis.states(value.shape, 3, padded.shape) == 5
    assert torch.equal(axis.first(padded, 5, 3), value)
    assert int((padded == 0).sum()) == 2 * axis.blocks
    assert torch.equal(axis.first(axis.first(value, 3, 5), 5, 3), value)


class Layer(nn.Module):
    def __init__(self, states):
        super().__init__()
        self.proj = nn.Linear(4, 3 + 2 * states, bias=False)
        self.conv = nn.Conv1d(2 * states, 2 * states, 3, groups=2 * states)
        self.state_size, self.wide, self.expand = states, 2 * states, states / 5


LAYOUT = Layout(
    parameters={
        "proj.weight": StateAxis(0, roles=TWO, lead=3),
        "conv.weight": StateAxis(0, roles=TWO),
        "conv.bias": StateAxis(0, roles=TWO),
    },
    sizes={
        "state_size": 1,
        "wide": "conv.weight",
        "expand": partial(ratio, base=5),
        "absent": 1,
        "not.there": 2,
    },
    buffers={"ones": torch.ones},
)


def test_sizes_and_cost_follow_from_the_axes():
    layer = Layer(5)
    assert LAYOUT.state_dim(layer) == 5
    assert LAYOUT.parameters_per_state(layer) == 2 * 4 + 2 * 3 + 2
    says = LAYOUT.attributes(layer, 2)
    assert torch.equal(says.pop("ones"), torch.ones(2))
    assert says == {
        "state_size": 2,
        "wide": 4,
        "expand": 0.4,
        "proj.out_features": 7,
        **dict.fromkeys(("conv.in_channels", "conv.out_channels", "conv.groups"), 4),
    }


def test_parameters_that_do_not_agree_are_named():
    layer = Layer(5)
    layer.conv = nn.Conv1d(8, 8, 3, groups=8)
    with pytest.raises(InputError, match=r"proj.weight \(13\) of 5, conv.weight \(8\) of 4"):
        LAYOUT.state_dim(layer)


def test_a_ratio_survives_the_round_trip_of_its_integers():
    """Through truncation, rounding and JSON; a plain quotient does not."""
    assert int(98 * (128 / 98)) == 127
    for base in range(1, 400):
        for whole in range(1, 400):
            (r,) = json.loads(json.dumps([ratio(whole, base)]))
            assert int(base * r) == round(base * r) == whole, (whole, base)
            assert math.isclose(base * r, whole)
    g = torch.Generator().manual_seed(0)
    for whole, base in torch.randint(1, 2**20, (20_000, 2), generator=g).tolist():
        assert int(base * ratio(whole, base)) == whole, (whole, base)
