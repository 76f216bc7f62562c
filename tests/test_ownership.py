"""Who trains a parameter: given optimizers, those inside them, those alive elsewhere."""

import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, Schedule, compress_
from compressm.errors import OptimizerError
from compressm.nn import LRU
from compressm.writeback.ownership import (
    as_optimizers,
    followed,
    holders,
    live_optimizers,
    named_owners,
    strangers,
)


class Sam(torch.optim.Optimizer):
    """The shape of SAM: an ascent before the step of an optimizer over the same groups."""

    def __init__(self, params, base, **options):
        super().__init__(params, options)
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old_p"] = p.detach().clone()
        self.base_optimizer.step()


class Several:
    """A third party's wrapper that is no torch optimizer but is used like one."""

    def __init__(self, **parts):
        self.parts, self.me = parts, [self]

    @property
    def param_groups(self):
        return [group for part in self.parts.values() for group in part.param_groups]

    @property
    def state(self):
        return {p: s for part in self.parts.values() for p, s in part.state.items()}

    def step(self):
        for part in self.parts.values():
            part.step()

    def zero_grad(self):
        for part in self.parts.values():
            part.zero_grad()


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def train(layer, *optimizers):
    for optimizer in optimizers:
        optimizer.zero_grad()
    layer(torch.randn(4, 12, 4)).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()


def test_optimizers_inside_are_found_once_with_their_names():
    layer = LRU(4, 8)
    sam = Sam(layer.parameters(), torch.optim.Adam, lr=1e-3)
    sam.myself = [{"again": sam}, (sam.base_optimizer,)]
    assert named_owners([sam, sam.base_optimizer]) == [
        ("Sam", sam),
        ("Sam.base_optimizer (Adam)", sam.base_optimizer),
    ]
    assert followed(followed([sam])) == followed([sam])
    assert holders(layer.C_re, [sam]) == ["Sam", "Sam.base_optimizer (Adam)"]
    assert holders(nn.Parameter(torch.ones(1)), [sam]) == []


def test_wrappers_that_keep_nothing_of_their_own_are_looked_through():
    accelerate = pytest.importorskip("accelerate")
    fabric = pytest.importorskip("lightning.fabric.wrappers")
    layer = LRU(4, 8)
    inner = adam(layer.parameters())
    for wrapper in (
        accelerate.Accelerator(cpu=True).prepare(inner),
        fabric._FabricOptimizer(inner, strategy=None),
    ):
        assert followed([wrapper]) == [inner]
        assert strangers(layer.parameters(), [inner]) == {}


def test_an_optimizer_by_parts_and_a_dict_of_optimizers():
    layer = LRU(4, 8)
    one, two = adam([layer.C_re, layer.C_im]), adam([layer.B_re, layer.B_im])
    several = Several(readout=one, inputs=two)
    names = [name for name, _ in named_owners([several])]
    assert names == ["Several", "Several.parts['readout'] (Adam)", "Several.parts['inputs'] (Adam)"]
    assert as_optimizers({layer.C_re: one, layer.B_re: two}) == [one, two]


def test_moments_of_an_optimizer_inside_follow():
    layer = LRU(4, 16)
    sam = Sam(layer.parameters(), torch.optim.Adam, lr=1e-3)
    train(layer, sam)
    compress_(layer, sam, policy=FixedRank(8), method="modes-h2")
    assert sam.base_optimizer.state[layer.C_re]["exp_avg"].shape == layer.C_re.shape
    sam.base_optimizer.state_dict()
    before = layer.C_re.detach().clone()
    train(layer, sam)
    assert not torch.equal(layer.C_re, before)


def test_a_live_optimizer_that_was_not_given_is_refused_and_nothing_changes():
    layer = LRU(4, 16)
    given, other = adam(layer.parameters()), torch.optim.SGD([layer.C_re], lr=1e-3)
    for optimizers, message in (([given], "C_re .* SGD, which was not"), (None, "Adam, which")):
        with pytest.raises(OptimizerError, match=message):
            compress_(layer, optimizers, policy=FixedRank(8))
        assert layer.state_dim == 16
    wrapper = Sam(layer.parameters(), torch.optim.Adam, lr=1e-3)
    train(layer, wrapper)
    with pytest.raises(OptimizerError, match="Sam"):
        compress_(layer, [given, other, wrapper.base_optimizer], policy=FixedRank(8))
    del wrapper
    compress_(layer, [given, other], policy=FixedRank(8))
    assert given in live_optimizers()
    train(layer, given, other)


def test_garbage_is_no_owner():
    layer = LRU(4, 16)
    dead = adam(layer.parameters())
    dead.myself = dead
    del dead
    compress_(layer, policy=FixedRank(8))
    assert layer.state_dim == 8


def test_an_optimizer_over_copies_of_the_weights_is_refused_by_name():
    layer = LRU(4, 16)
    masters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    with pytest.raises(OptimizerError, match=r"nu_log is trainable.*\(Adam\).*copies"):
        compress_(layer, adam(masters), policy=FixedRank(8))
    assert layer.state_dim == 16


def test_lbfgs_is_refused_inside_another_too():
    layer = LRU(4, 8)
    with pytest.raises(OptimizerError, match=r"Several.parts\['a'\] \(LBFGS\)"):
        Compressor(
            layer,
            Several(a=torch.optim.LBFGS(layer.parameters())),
            policy=FixedRank(4),
            schedule=Schedule.at(1),
        )


def compressor_of(layer, *optimizers):
    return Compressor(layer, optimizers, policy=FixedRank(4), schedule=Schedule.at(3))


def test_the_first_step_asks_whether_the_layers_are_trained():
    layer = LRU(4, 8)
    part = adam([p for name, p in layer.named_parameters() if name != "C_im"])
    with pytest.raises(OptimizerError, match=r"C_im is trainable.*\(Adam\)"):
        compressor_of(layer, part).step()
    layer.C_im.requires_grad_(False)
    compressor_of(layer, part).step()
    compressor = compressor_of(layer)
    assert [compressor.step() for _ in range(2)] == [None, None]  # nothing was given, nothing held


@pytest.mark.parametrize("loaded", ["model", "compressor"])
def test_so_does_the_first_step_after_a_load(loaded):
    layer = LRU(4, 8)
    optimizer = adam(layer.parameters())
    compressor = compressor_of(layer, optimizer)
    compressor.step()
    layer.C_im = nn.Parameter(layer.C_im.detach().clone())
    compressor.step()  # an idle step only counts
    part = {"model": layer, "compressor": compressor}[loaded]
    part.load_state_dict(part.state_dict())
    with pytest.raises(OptimizerError, match="C_im"):
        compressor.step()
    assert not compressor.finished
