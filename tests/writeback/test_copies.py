"""Copies of the weights in optimizers, and how they follow a cut."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_
from compressm.nn import LRU
from compressm.writeback import commit_
from compressm.writeback.optimizer_state import copies_of_weights
from tests.writeback.cuts import CUTS, KEPT, MATRIX, Plain, make, mixes, projects, selects, step


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
