"""What state is, by name and by structure, and how each kind of it follows a cut."""

import copy
import warnings
from collections import deque, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from compressm.edits import Edit, Selection
from compressm.errors import OptimizerError
from compressm.writeback import Snapshot, commit_
from compressm.writeback.optimizer_state import leaves, replaced
from tests.writeback.cuts import CUTS, KEPT, MATRIX, Plain, make, selects, step

UNKNOWN = {
    "alone": lambda p: {"curvature": torch.rand_like(p)},
    "with moments": lambda p: {"curvature": torch.rand_like(p), "exp_avg": torch.rand_like(p)},
}


@pytest.mark.parametrize("state", UNKNOWN)
def test_unknown_state_is_indexed_only_where_values_stay(state):
    net, optimizer = make(Plain, make=UNKNOWN[state])
    before = optimizer.state[net.weight]["curvature"].clone()
    commit_(net, selects(net), [optimizer])
    assert torch.equal(optimizer.state[net.weight]["curvature"], before[KEPT])
    for cut in CUTS.keys() - {"select"}:
        net, optimizer = make(Plain, make=UNKNOWN[state])
        with pytest.warns(UserWarning, match=r"Plain\.curvature$") as caught:
            commit_(net, CUTS[cut](net), [optimizer])
        assert len(caught) == 1
        assert net.weight not in optimizer.state
        step(net, optimizer)


Pair = namedtuple("Pair", "left right")


@dataclass(frozen=True)
class Factors:
    rows: torch.Tensor
    exponent: float = 0.5


class Projector:
    def __init__(self, p):
        self.basis = torch.eye(p.shape[0])


FOREIGN = {
    "kronecker lists": lambda p: {"GG": [torch.eye(n) for n in p.shape], "exp_avg": p * 0},
    "dict in dict": lambda p: {"a": {"b": {"c": torch.ones(p.numel())}}},
    "tuple": lambda p: {"pair": Pair(torch.zeros(p.shape[0]), None)},
    "queue": lambda p: {"grads": deque([torch.zeros_like(p)], maxlen=3)},
    "array": lambda p: {"rows": [np.zeros(p.shape[0])]},
    "dataclass": lambda p: {"factors": Factors(torch.zeros(p.shape[0]))},
    "object": lambda p: {"projector": Projector(p)},
    "8-bit blocks": lambda p: {"state1": p.to(torch.uint8), "absmax1": torch.ones(2)},
    "quantised subclass": lambda p: {"exp_avg": (p * 0).as_subclass(Quantised)},
    "a shape": lambda p: {"shape": p.shape},
    "nested, of the same shape": lambda p: {"cache": [torch.rand_like(p)]},
}


class Quantised(torch.Tensor):
    pass


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("state", FOREIGN)
def test_state_that_cannot_follow_starts_anew_with_one_warning(state, cut):
    net, optimizer = make(Plain, make=lambda p: {"step": 3, **FOREIGN[state](p)})
    key = next(iter(FOREIGN[state](net.weight)))
    if cut == "select" and state.startswith("8"):
        key = "absmax1"
    with pytest.warns(UserWarning, match=rf"Plain\.{key}") as caught:
        commit_(net, CUTS[cut](net), [optimizer])
    assert len(caught) == 1
    assert net.weight not in optimizer.state
    step(net, optimizer)


def test_square_factors_of_a_square_matrix_are_not_taken_for_values():
    torch.manual_seed(0)
    net = nn.Linear(6, 6, bias=False)
    optimizer = Plain(net.parameters(), make=lambda p: {"L": torch.eye(6), "R": torch.eye(6)})
    step(net, optimizer)
    with pytest.warns(UserWarning, match=r"Plain\.L, Plain\.R$"):
        commit_(net, selects_square(net), [optimizer])
    assert net.weight not in optimizer.state


def selects_square(net):
    values = (net.weight.detach()[KEPT],)
    return [Edit(module=net, names=("weight",), values=values, transport=Selection(KEPT, 0))]


@pytest.mark.parametrize("cut", CUTS)
def test_known_names_are_followed_at_any_depth(cut):
    def state(p):
        return {"inner": Pair({"exp_avg": p.detach() * 2}, [torch.tensor(1.0)]), "n": 7}

    net, optimizer = make(Plain, make=state)
    old = optimizer.state[net.weight]["inner"].left["exp_avg"].clone()
    commit_(net, CUTS[cut](net), [optimizer])
    new = optimizer.state[net.weight]
    assert type(new["inner"]) is Pair
    assert (new["n"], new["inner"].right) == (7, [torch.tensor(1.0)])
    rule = (MATRIX.mT.float() @ old) if cut == "project" else old[KEPT]
    torch.testing.assert_close(new["inner"].left["exp_avg"], rule)


def test_a_state_that_points_to_its_parameter_points_to_the_new_one():
    net, optimizer = make(Plain, make=lambda p: {"me": [p], "exp_avg": torch.zeros_like(p)})
    commit_(net, selects(net), [optimizer])
    assert optimizer.state[net.weight]["me"][0] is net.weight


def test_state_that_parameters_share_starts_anew():
    shared = {}

    def state(p):
        return {"exp_avg": shared.setdefault(p.shape, torch.zeros(p.shape))}

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(4, 6))
    optimizer = Plain(net.parameters(), make=state)
    optimizer.zero_grad()
    (net[0](torch.randn(8, 4)) + net[1](torch.randn(8, 4))).square().mean().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match=r"Plain\.exp_avg"):
        commit_(net, selects(net[0]), [optimizer])
    assert net[0].weight not in optimizer.state
    assert optimizer.state[net[1].weight]["exp_avg"].shape == (6, 4)


def test_replacing_tensors_leaves_the_old_state_alone():
    state = {"a": deque([torch.ones(2), {"b": torch.zeros(2)}], maxlen=2), "c": 1}
    saved = copy.deepcopy(state)
    new = replaced(state, {("a", 1, "b"): torch.full((3,), 2.0)})
    assert [leaf.path for leaf in leaves(new)] == [("a", 0), ("a", 1, "b")]
    assert new["a"][1]["b"].shape == (3,)
    assert new["a"].maxlen == 2
    torch.testing.assert_close(state, saved)


class EarlyMuon(Plain):
    """The shape of Muon as published: a flag is put into the state when it is built."""

    def __init__(self, params, lr=0.1, factors=False):
        super().__init__(params, lr=lr)
        for p in self.param_groups[0]["params"]:
            self.state[p]["use_muon"] = p.ndim == 2
            self.state[p]["step"] = 0
            if factors:
                self.state[p]["rows"] = torch.ones(p.shape[0])

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if state["use_muon"]:
                state.setdefault("momentum_buffer", torch.zeros_like(p)).add_(p.grad)
            state["step"] += 1
            p.sub_(p.grad, alpha=0.1)


@pytest.mark.parametrize("transport", ["project", "reset"])
def test_state_that_only_building_makes_is_made_again(transport):
    net, optimizer = make(EarlyMuon)
    commit_(net, selects(net), [optimizer], transport=transport)
    state = optimizer.state[net.weight]
    assert state["use_muon"] is True
    assert state["step"] == (0 if transport == "reset" else 3)
    assert bool(state["momentum_buffer"].any()) == (transport == "project")
    step(net, optimizer)


def test_state_that_only_building_makes_and_that_cannot_follow_is_refused():
    net, optimizer = make(EarlyMuon, factors=True)
    with pytest.raises(OptimizerError, match=r"EarlyMuon\.rows"):
        commit_(net, selects(net), [optimizer])
    assert net.weight.shape == (6, 4)
    step(net, optimizer)


def test_state_of_no_parameter_stays():
    net, optimizer = make(torch.optim.SGD, lr=0.1, momentum=0.9)
    optimizer.state["global"] = {"steps": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        commit_(net, selects(net), [optimizer])
    assert optimizer.state["global"] == {"steps": 3}


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_snapshot_puts_back_state_of_any_shape_and_key(on_disk, tmp_path):
    elsewhere = nn.Parameter(torch.ones(2))
    net, optimizer = make(torch.optim.SGD, lr=0.1, momentum=0.9)
    shared = torch.zeros(3)
    optimizer.state["global"] = {"steps": [3], "buffer": shared}
    optimizer.state[elsewhere]["buffer"] = shared
    held, old, optimizer.steps_taken = dict(optimizer.state), net.weight, 3
    expected = copy.deepcopy(list(held.values()))
    snapshot = Snapshot(net, [optimizer], folder=tmp_path if on_disk else None)
    commit_(net, selects(net), [optimizer])
    step(net, optimizer)
    optimizer.state["global"]["steps"].append(4)
    optimizer.state[elsewhere]["buffer"] += 1
    optimizer.state["more"] = {}
    optimizer.steps_taken = 7
    for _ in range(2):  # it can be restored again
        snapshot.restore()
        assert net.weight is old
        assert set(optimizer.state) == set(held)
        now = [optimizer.state[key] for key in held]
        torch.testing.assert_close(now, expected, rtol=0, atol=0)
        assert optimizer.state[elsewhere]["buffer"] is optimizer.state["global"]["buffer"]
        assert optimizer.steps_taken == 3
        optimizer.state["global"]["steps"].append(5)
    snapshot.close()
