"""Who trains a parameter: given optimizers, those inside them, those alive elsewhere."""

import warnings

import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, Guard, Schedule, compress_
from compressm.errors import OptimizerError
from compressm.nn import LRU
from compressm.runtime.living import living
from compressm.writeback.elsewhere import Elsewhere
from compressm.writeback.ownership import (
    all_optimizers,
    as_optimizers,
    holders,
    named_optimizers,
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
    assert named_optimizers([sam, sam.base_optimizer]) == [
        ("Sam", sam),
        ("Sam.base_optimizer (Adam)", sam.base_optimizer),
    ]
    assert all_optimizers(all_optimizers([sam])) == all_optimizers([sam])
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
        assert all_optimizers([wrapper]) == [inner]
        assert Elsewhere.of(layer.parameters(), [inner], layer) == Elsewhere()


def test_an_optimizer_by_parts_and_a_dict_of_optimizers():
    layer = LRU(4, 8)
    one, two = adam([layer.C_re, layer.C_im]), adam([layer.B_re, layer.B_im])
    several = Several(readout=one, inputs=two)
    names = [name for name, _ in named_optimizers([several])]
    assert names == ["Several", "Several.parts['readout'] (Adam)", "Several.parts['inputs'] (Adam)"]
    by_parameter = {layer.C_re: one, layer.B_re: two}
    assert as_optimizers(by_parameter) == [by_parameter]
    assert named_optimizers([by_parameter]) == [("Adam", one), ("Adam", two)]


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
    assert given in living(torch.optim.Optimizer)
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


def test_so_does_the_first_step_after_a_cut():
    """What was collected before it and handed over after it is no longer the layer's."""
    layer = LRU(4, 8)
    head = nn.Linear(4, 1)
    net = nn.Sequential(layer, head)
    layer.requires_grad_(False)
    collected = list(layer.parameters())
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    compressor = Compressor(
        net, optimizer, policy=FixedRank(4), schedule=Schedule.at(1), method="real-pairs"
    )
    assert compressor.step() is not None
    layer.requires_grad_(True)
    optimizer.add_param_group({"params": collected})
    with pytest.raises(OptimizerError, match=r"0\.nu_log is trainable, but no given optimizer"):
        compressor.step()
    optimizer.add_param_group({"params": [p for p in layer.parameters() if p is not layer.D]})
    assert compressor.step() is None


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


def backward(layer):
    torch.manual_seed(3)
    layer(torch.randn(4, 12, 4)).square().mean().backward()


def hung_by_torch(layer):
    with warnings.catch_warnings():  # importing it uses what torch has deprecated
        warnings.simplefilter("ignore")
        from torch.distributed.optim import _apply_optimizer_in_backward
    _apply_optimizer_in_backward(torch.optim.AdamW, layer.parameters(), {"lr": 1e-2})


def hung_by_hand(layer):
    """As PyTorch's tutorial on the optimizer step in the backward pass does it."""
    optimizers = {p: torch.optim.AdamW([p], lr=1e-2) for p in layer.parameters()}

    def hook(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for p in layer.parameters():
        p.register_post_accumulate_grad_hook(hook)
    return optimizers


@pytest.mark.parametrize("hang", [hung_by_torch, hung_by_hand])
@pytest.mark.filterwarnings("ignore:hooks registered on")
def test_optimizers_that_step_in_the_backward_pass_go_on_as_one_would(hang):
    def run(method, make, step):
        torch.manual_seed(0)
        layer = LRU(4, 16)
        optimizer = make(layer)
        for states in (16, 8, 4):
            if states < 16:
                compress_(layer, optimizer, policy=FixedRank(states), method=method)
            for _ in range(3):
                backward(layer)
                step(optimizer)
        return layer

    def plain(optimizer):
        optimizer.step()
        optimizer.zero_grad()

    expected = run("modes-h2", lambda layer: torch.optim.AdamW(layer.parameters(), 1e-2), plain)
    layer = run("modes-h2", hang, lambda _: None)
    assert layer.state_dim == 4
    for p, q in zip(layer.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.grad is None


@pytest.mark.parametrize("hang", [hung_by_torch, hung_by_hand])
@pytest.mark.filterwarnings("ignore:hooks registered on")
def test_and_a_rollback_leaves_them_as_they_were(hang):
    def run(guarded):
        torch.manual_seed(0)
        layer = LRU(4, 16)
        optimizers = hang(layer)
        backward(layer)
        if guarded:
            guard = Guard(lambda: float(layer.state_dim), max_drop=0, max_attempts=1)
            event = compress_(layer, optimizers, policy=FixedRank(8), guard=guard)
            assert event.kind == "rejected"
        for _ in range(2):
            backward(layer)
        return [p.detach() for p in layer.parameters()]

    assert all(map(torch.equal, run(True), run(False)))


class Slow(torch.optim.SGD):
    """The shape of an early Lookahead: slow weights in lists outside the state."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.order = [p for group in self.param_groups for p in group["params"]]
        self.index = {p: i for i, p in enumerate(self.order)}


def test_lists_and_dicts_of_parameters_follow():
    layer = LRU(4, 16)
    optimizer = Slow(layer.parameters(), lr=1e-3)
    order, index = optimizer.order, optimizer.index
    compress_(layer, optimizer, policy=FixedRank(8))
    assert optimizer.order is order
    assert [id(p) for p in order] == [id(p) for p in optimizer.param_groups[0]["params"]]
    assert [id(p) for p in index] == [id(p) for p in order]


class Lookahead(torch.optim.Optimizer):
    """The shape of many: it keeps the state of the optimizer inside it as an attribute, too."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.optimizer, self.fast_state = optimizer, optimizer.state
        self.param_groups = optimizer.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step()
        for p in (p for group in self.param_groups for p in group["params"]):
            slow = self.state[p].setdefault("slow_param", p.detach().clone())
            p.copy_(slow.lerp_(p, 0.5))


def test_the_state_of_an_optimizer_inside_may_have_two_names():
    for method in ("modes-h2", "real-pairs"):
        layer = LRU(4, 16)
        outer = Lookahead(adam(layer.parameters()))
        inner = outer.optimizer
        train(layer, outer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compress_(layer, outer, policy=FixedRank(8), method=method)
        assert outer.fast_state is inner.state
        assert set(inner.state) <= set(layer.parameters()) == set(outer.state)
        assert all(state["exp_avg"].shape == p.shape for p, state in inner.state.items())
        train(layer, outer)


def test_and_a_rollback_gives_it_back():
    layer = LRU(4, 16)
    outer = Lookahead(adam(layer.parameters()))
    train(layer, outer)
    before = {p: state["exp_avg"].clone() for p, state in outer.fast_state.items()}
    guard = Guard(lambda: float(layer.state_dim == 16), max_drop=0.1, max_attempts=1)
    assert compress_(layer, outer, policy=FixedRank(8), guard=guard).kind == "rejected"
    assert outer.fast_state is outer.optimizer.state
    assert all(torch.equal(outer.fast_state[p]["exp_avg"], before[p]) for p in before)
    train(layer, outer)


def test_a_state_that_is_no_more_that_of_an_optimizer_is_refused():
    layer = LRU(4, 16)
    outer = Lookahead(adam(layer.parameters()))
    train(layer, outer)
    outer.optimizer.load_state_dict(outer.optimizer.state_dict())  # makes a new dict
    with pytest.raises(OptimizerError, match=r"Lookahead\.fast_state keeps a tensor"):
        compress_(layer, outer, policy=FixedRank(8))


def flat(optimizer):
    return torch.zeros(sum(p.numel() for p in optimizer.order))


def slow_weights(optimizer):
    return [[p.detach().clone() for p in optimizer.order]]


@pytest.mark.parametrize("keep", [flat, slow_weights])
@pytest.mark.parametrize("place", ["attribute", "entry"])
def test_tensors_of_the_parameters_sizes_outside_the_state_are_refused(keep, place):
    layer = LRU(4, 16)
    optimizer = Slow(layer.parameters(), lr=1e-3)
    optimizer.harmless = [torch.zeros(100), torch.tensor(1.0)]
    if place == "attribute":
        optimizer.kept = keep(optimizer)
    else:
        optimizer.state["kept"]["all"] = keep(optimizer)
    with pytest.raises(OptimizerError, match=r"Slow\.(kept|state\['kept'\]) keeps a tensor"):
        compress_(layer, optimizer, policy=FixedRank(8))
    assert layer.state_dim == 16
