"""A small layer, cuts of every kind, and an optimizer that keeps what it is told to."""

import torch
from torch import nn

from compressm.edits import Edit, Project, Selection, StateMap

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
