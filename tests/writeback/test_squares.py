"""Squares of gradients: beside a mean that is taken away from them, and under another name."""

import pytest
import torch

from compressm.edits import Edit, Selection
from compressm.writeback import commit_
from tests.writeback.cuts import CUTS, KEPT, MATRIX, Plain, make, projects, step


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
