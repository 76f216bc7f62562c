"""What state is, by name and by numbers, and how each kind of it follows a cut."""

import copy
import warnings
from collections import deque, namedtuple
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_
from compressm.edits import Edit, Project, Selection, StateMap
from compressm.errors import OptimizerError
from compressm.nn import LRU
from compressm.writeback import Snapshot, commit_
from compressm.writeback.optimizer_state import copies_of_weights, leaves, replaced

KEPT = torch.tensor([5, 0, 3])
WEIGHTS = torch.tensor([2.0, 0.3, 2.0**0.5], dtype=torch.float64)
MATRIX = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Plain(torch.optim.Optimizer):
    """Gradient descent that keeps whatever `make(p)` returns beside each parameter."""

    def __init__(self, params, make=None, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.make = make

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    self.state[p].update(self.make(p))
                p.sub_(p.grad, alpha=group["lr"])


class Rounded(Plain):
    """Steps a float32 copy, of which the parameter is the rounded value."""

    key = "master"

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                w = self.state[p].setdefault(self.key, p.float().clone())
                w.sub_(p.grad.float(), alpha=group["lr"])
                p.copy_(w)


class RoundedUnderAnotherName(Rounded):
    key = "weights_in_full"


class ScheduleFree(Plain):
    """Schedule-free SGD (arXiv 2405.15682) in its training mode: p is y, `z` is the iterate."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            c = 1 / group["k"]
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, c)
                p.sub_(p.grad, alpha=group["lr"] * 0.9 * (1 - c))
                z.sub_(p.grad, alpha=group["lr"])

    def order(self):
        return [p for group in self.param_groups for p in group["params"]]

    def average(self, p):
        """x, with y = 0.1 z + 0.9 x."""
        return (p - 0.1 * self.state[p]["z"]) / 0.9


def make(optimizer, dtype=torch.float32, **options):
    torch.manual_seed(0)
    net = nn.Linear(4, 6).to(dtype)
    o = optimizer(net.parameters(), **options)
    for _ in range(3):
        step(net, o)
    return net, o


def step(net, optimizer):
    optimizer.zero_grad()
    net(torch.randn(8, net.in_features, dtype=net.weight.dtype)).square().mean().backward()
    optimizer.step()


def selects(net, change=0.0):
    """Existing rows are kept; with `change` their values are fitted as well."""
    values = [p.detach().double()[KEPT] for p in net.parameters()]
    values = [v + change * torch.randn_like(v) for v in values]
    return [
        Edit(module=net, names=(name,), values=(v,), transport=Selection(KEPT, 0))
        for name, v in zip(("weight", "bias"), values, strict=True)
    ]


def projects(net):
    value = torch.randn(3, 4, dtype=torch.float64)
    return [
        Edit(module=net, names=("weight",), values=(value,), transport=Project(MATRIX, 0)),
        selects(net)[1],
    ]


def weighs(net):
    """Kept rows get weights, as a matter of the edit and not of a fit."""
    rule = Selection(KEPT, 0, weights=WEIGHTS)
    values = [
        torch.einsum("i...,i->i...", p.detach().double()[KEPT], WEIGHTS) for p in net.parameters()
    ]
    return [
        Edit(module=net, names=(name,), values=(v,), transport=rule)
        for name, v in zip(("weight", "bias"), values, strict=True)
    ]


def mixes(net):
    """Rows are mixes of all old ones."""
    rule = Selection(KEPT, 0, made=StateMap(MATRIX, 0))
    value = MATRIX.mT @ net.weight.detach().double()
    return [
        Edit(module=net, names=("weight",), values=(value,), transport=rule),
        selects(net)[1],
    ]


CUTS = {
    "select": selects,
    "fit": lambda net: selects(net, 0.3),
    "weigh": weighs,
    "mix": mixes,
    "project": projects,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", [Rounded, RoundedUnderAnotherName])
def test_a_step_of_length_0_leaves_cut_weights_where_they_are(kind, cut, dtype):
    net, optimizer = make(kind, dtype)
    commit_(net, CUTS[cut](net), [optimizer])
    held = [p.detach().clone() for p in net.parameters()]
    assert all(optimizer.state[p][kind.key].shape == p.shape for p in net.parameters())
    optimizer.param_groups[0]["lr"] = 0.0
    step(net, optimizer)
    assert all(map(torch.equal, net.parameters(), held))


def test_what_a_master_copy_has_beyond_the_rounded_weights_stays_where_values_do():
    net, optimizer = make(Rounded, torch.bfloat16)
    master = optimizer.state[net.weight]["master"].clone()
    assert not torch.equal(master, net.weight.float())
    commit_(net, selects(net), [optimizer])
    assert torch.equal(optimizer.state[net.weight]["master"], master[KEPT])


def test_an_iterate_gets_the_correction_of_the_weights_and_so_does_the_average():
    net, optimizer = make(ScheduleFree)
    z, y = optimizer.state[net.weight]["z"].clone(), net.weight.detach().clone()
    x = optimizer.average(net.weight).detach()
    commit_(net, selects(net, 0.3), [optimizer])
    correction = net.weight.detach() - y[KEPT]
    torch.testing.assert_close(optimizer.state[net.weight]["z"], z[KEPT] + correction)
    torch.testing.assert_close(optimizer.average(net.weight).detach(), x[KEPT] + correction)


@pytest.mark.parametrize("cut", ["weigh", "mix"])
def test_an_iterate_goes_through_the_linear_map_that_made_the_weights(cut):
    net, optimizer = make(ScheduleFree)
    with torch.no_grad():
        optimizer.state[net.weight]["z"].copy_(2 * net.weight)
    commit_(net, CUTS[cut](net), [optimizer])
    torch.testing.assert_close(optimizer.state[net.weight]["z"], 2 * net.weight.detach())


def test_what_a_fit_has_beside_that_map_is_added():
    net, optimizer = make(ScheduleFree)
    z = optimizer.state[net.weight]["z"].clone()
    (weight, _) = mixes(net)
    more = torch.randn_like(weight.values[0])
    commit_(net, [replace(weight, values=(weight.values[0] + more,))], [optimizer])
    right = MATRIX.mT @ z.double() + more
    torch.testing.assert_close(optimizer.state[net.weight]["z"], right.float())


@pytest.mark.parametrize("apart", [False, True])
def test_a_map_that_mixes_parameters_takes_the_copies_of_them_all(apart):
    """Where one optimizer holds them; else each gets the correction of its parameter."""
    torch.manual_seed(0)
    layer = LRU(3, 8)
    imaginary = [layer.C_im]
    others = [p for p in layer.parameters() if p is not layer.C_im]
    parts = [others, imaginary] if apart else [others + imaginary]
    optimizers = [ScheduleFree(part) for part in parts]
    state = {p: optimizer.state[p] for optimizer in optimizers for p in optimizer.order()}
    for p, entry in state.items():
        entry["z"] = 0.9 * p.detach()
    old, z = layer.C_im.detach(), state[layer.C_im]["z"]
    rows = layer.B_re.detach()
    compress_(layer, optimizers, policy=FixedRank(4), method="modes-h2")
    new = optimizers[-1].state[layer.C_im]["z"]
    kept = [next(i for i in range(8) if torch.equal(rows[i], row)) for row in layer.B_re]
    right = z[:, kept] + layer.C_im.detach() - old[:, kept] if apart else 0.9 * layer.C_im.detach()
    torch.testing.assert_close(new, right)


def test_after_a_change_of_basis_copies_start_from_the_new_weights():
    net, optimizer = make(ScheduleFree)
    commit_(net, projects(net), [optimizer])
    assert torch.equal(optimizer.state[net.weight]["z"], net.weight)


class LaProp(Plain):
    """A third party's name for what it keeps when it is centred (arXiv 2002.04839)."""


class MSVAG(Plain):
    """The shape of M-SVAG (arXiv 1705.07774): the mean is that of the steps."""


class RMSprop8bit(Plain):
    """A third party's name for an optimizer with one state, the mean of squares."""


class Lion8bit(Plain):
    """And for one whose only state is the mean of gradients."""


CENTRED = {
    "torch": (torch.optim.RMSprop, "square_avg", "grad_avg"),
    "LaProp": (LaProp, "exp_avg_sq", "exp_mean_avg_beta2"),
    "M-SVAG": (MSVAG, "exp_avg_sq", "exp_avg"),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", CENTRED)
def test_variances_of_centred_optimizers_stay_positive(name, cut):
    kind, square, mean = CENTRED[name]

    def state(p):
        m = torch.randn_like(p)
        return {mean: m, square: m.square() + 0.1 * torch.rand_like(p)}

    options = {"centered": True} if name == "torch" else {"make": state}
    net, optimizer = make(kind, lr=1e-3, **options)
    if name == "torch":
        optimizer.state[net.weight].update(state(net.weight))
    old = {key: t.clone() for key, t in optimizer.state[net.weight].items()}
    commit_(net, CUTS[cut](net), [optimizer])
    new = optimizer.state[net.weight]
    variance = new[square] - new[mean].square()
    before = old[square] - old[mean].square()
    right = MATRIX.square().mT.float() @ before if cut == "project" else before[KEPT]
    torch.testing.assert_close(variance, right, rtol=1e-4, atol=1e-5)
    step(net, optimizer)
    assert all(bool(p.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("kind", [RMSprop8bit, Lion8bit])
def test_the_only_state_of_an_optimizer_is_what_its_name_says(kind):
    net, optimizer = make(kind, make=lambda p: {"state1": torch.rand_like(p)})
    old = optimizer.state[net.weight]["state1"].clone()
    squares = kind is RMSprop8bit
    matrix = (MATRIX.square() if squares else MATRIX).float()
    commit_(net, projects(net), [optimizer])
    torch.testing.assert_close(optimizer.state[net.weight]["state1"], matrix.mT @ old)

    net, optimizer = make(kind, make=lambda p: {"state1": torch.rand_like(p)})
    old = optimizer.state[net.weight]["state1"].clone()
    f = torch.tensor([2.0, 0.5, 3.0])
    rule = Selection(KEPT, 0, f)
    values = (net.weight.detach()[KEPT],)
    commit_(net, [Edit(module=net, names=("weight",), values=values, transport=rule)], [optimizer])
    expected = (f.square() if squares else f)[:, None] * old[KEPT]
    torch.testing.assert_close(optimizer.state[net.weight]["state1"], expected)


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


def test_what_is_near_the_weights_is_a_copy_and_nothing_else_is():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(9))]
    weights += [nn.Parameter(torch.ones(9)), nn.Parameter(torch.rand(3))]

    def found(make):
        optimizer = Plain(weights)
        for p in weights:
            optimizer.state[p]["odd"] = make(p.detach())
        return copies_of_weights(optimizer) == {"odd"}

    assert found(torch.clone)
    assert found(lambda p: p + 0.01 * torch.randn_like(p))
    assert found(lambda p: p.double())
    for other in (torch.zeros_like, torch.ones_like, torch.randn_like, torch.square, torch.neg):
        assert not found(other)
    weights = weights[1:]  # zeros, ones and three numbers prove nothing
    assert not found(torch.clone)


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
