"""One way of resizing on load, whichever module it is called on, in whatever order."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, Guard, Schedule
from compressm.errors import CheckpointError
from compressm.nn import LRU, state_dims
from compressm.storage.bits import tensors_in
from tests.checkpoints.layers import Stacked
from tests.loops.common import CUT, FULL, build, parameters_alive, train_step

# torch's own compiler does this to itself while it traces an autograd function.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Function'> should not be:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
ORDERS = list(itertools.permutations(range(3)))


def fabric(model):
    from lightning.fabric import Fabric

    return Fabric(accelerator="cpu", devices=1).setup_module(model)


# How the model is wrapped, and which part of that is loaded.
WRAPPERS = {
    "model": (lambda model: model, lambda model: model),
    "data parallel": (nn.DataParallel, lambda model: model.module),
    "data parallel itself": (nn.DataParallel, lambda model: model),
    "compiled": (lambda m: torch.compile(m, backend="eager"), lambda model: model),
    "below compiled": (lambda m: torch.compile(m, backend="eager"), lambda m: m._orig_mod),
    "fabric": (fabric, lambda model: model),
}


def start(wrap):
    model = wrap(build())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    compressor = Compressor(model, optimizer, policy=FixedRank(CUT), schedule=Schedule.at(2))
    return model, optimizer, compressor


def go(parts, steps):
    for _ in range(steps):
        train_step(parts[0], parts[1])
        parts[2].step()


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_run_resumes_in_any_order(name):
    wrap, part = WRAPPERS[name]
    whole = start(wrap)
    torch.manual_seed(1)
    go(whole, 3)
    states = [copy.deepcopy(p.state_dict()) for p in (part(whole[0]), *whole[1:])]
    random = torch.get_rng_state()
    go(whole, 2)
    for order in ORDERS if name == "model" else [(0, 1, 2), (1, 0, 2), (2, 1, 0)]:
        resumed = start(wrap)
        loads = (part(resumed[0]), *resumed[1:])
        for i in order:
            loads[i].load_state_dict(copy.deepcopy(states[i]))
        assert parameters_alive(*resumed[:2]), order
        torch.set_rng_state(random)
        go(resumed, 2)
        for mine, other in zip(resumed[:2], whole[:2], strict=True):
            torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_a_cut_that_waits_for_its_verdict_resumes_in_any_order(order):
    def begin():
        model = build(depth=1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        guard = Guard(lambda: -float(state_dims(model)[LAYER]), max_drop=1, recovery_steps=2)
        schedule = Schedule.at(1)
        return (
            model,
            optimizer,
            Compressor(model, optimizer, policy=FixedRank(CUT), schedule=schedule, guard=guard),
        )

    whole = begin()
    torch.manual_seed(1)
    go(whole, 2)
    assert whole[2].pending
    states = [copy.deepcopy(part.state_dict()) for part in whole]
    random = torch.get_rng_state()
    go(whole, 3)
    resumed = begin()
    for i in order:
        resumed[i].load_state_dict(states[i])
    torch.set_rng_state(random)
    go(resumed, 3)
    assert parameters_alive(*resumed[:2])
    torch.testing.assert_close(resumed[0].state_dict(), whole[0].state_dict(), rtol=0, atol=0)


LAYER = "encoder.blocks.0.layer"


@pytest.mark.parametrize("path", ["", "encoder", "encoder.blocks", "encoder.blocks.0", LAYER])
@pytest.mark.parametrize("compressed", [True, False])
def test_any_module_can_be_loaded(path, compressed):
    """With a compressor or, since the layers are ours, without."""
    model, small = build(depth=1), build(CUT, depth=1)
    optimizer = torch.optim.AdamW(model.parameters())
    if compressed:
        Compressor(model, optimizer, policy=FixedRank(CUT), schedule=Schedule.at(9))
    for source in (small, build(depth=1)):  # and back to an earlier, larger checkpoint
        model.get_submodule(path).load_state_dict(source.get_submodule(path).state_dict())
        assert state_dims(model) == state_dims(source)
        assert parameters_alive(model, optimizer)


def test_layers_of_third_parties_are_watched_once_a_compressor_has_them():
    model = nn.Sequential(nn.Tanh(), Stacked(4, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    Compressor(model, optimizer, policy=FixedRank(2), schedule=Schedule.at(9))
    small = Stacked(4, 3)
    model[1].load_state_dict(small.state_dict())
    assert parameters_alive(model, optimizer)
    torch.testing.assert_close(model[1].state_dict(), small.state_dict(), rtol=0, atol=0)


def test_copies_are_watched_and_have_their_own_optimizers():
    model = nn.Sequential(LRU(3, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        own = torch.optim.AdamW(twin.parameters())
        twin.load_state_dict(nn.Sequential(LRU(3, 5)).state_dict())
        assert parameters_alive(twin, own)
    assert parameters_alive(model, optimizer)
    assert model[0].state_dim == 8


class Outer(torch.optim.Optimizer):
    """Steps through another one and keeps a list of more."""

    def __init__(self, inner, more):
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})
        self.inner, self.more = inner, [more]


def test_every_live_optimizer_follows():
    model = nn.Sequential(LRU(3, 8))
    first, second = torch.optim.Adam(model.parameters()), torch.optim.SGD(model.parameters())
    outer = Outer(first, second)
    model.load_state_dict(nn.Sequential(LRU(3, 5)).state_dict())
    for optimizer in (first, second, outer):
        assert parameters_alive(model, optimizer)


def test_optimizer_state_stays_only_where_it_fits():
    def trained(states, make):
        torch.manual_seed(0)
        model = nn.Sequential(LRU(8, states))
        optimizer = make(model.parameters())
        model(torch.randn(2, 9, 8)).square().mean().backward()
        optimizer.step()
        return model, optimizer

    for make in (torch.optim.AdamW, torch.optim.Adafactor):
        small, its = trained(5, make)
        model, optimizer = trained(8, make)  # square, so rows and columns look alike
        optimizer.load_state_dict(copy.deepcopy(its.state_dict()))
        model.load_state_dict(small.state_dict())
        torch.testing.assert_close(optimizer.state_dict(), its.state_dict(), rtol=0, atol=0)
        model, optimizer = trained(8, make)
        kept = copy.deepcopy(optimizer.state[model[0].D])
        model.load_state_dict(small.state_dict())
        assert {p for p in optimizer.state if optimizer.state[p]["step"]} == {model[0].D}
        torch.testing.assert_close(optimizer.state[model[0].D], kept, rtol=0, atol=0)
        for parameter, state in optimizer.state.items():
            if parameter is not model[0].D:  # as if it had never stepped
                assert not any(tensor.any() for tensor in tensors_in(state))


def test_a_layer_that_disagrees_with_itself_changes_nothing_anywhere():
    model = build()
    Compressor(model, policy=FixedRank(CUT), schedule=Schedule.at(9))
    before = copy.deepcopy(model.state_dict())
    state = build(CUT).state_dict()
    last = "encoder.blocks.1.layer."
    state[last + "C_im"] = torch.zeros(6, CUT + 1)
    with pytest.raises(CheckpointError, match=rf"{last}C_im has shape \(6, 7\).*nu_log says N=6"):
        model.load_state_dict(state)
    del state[last + "C_im"]
    with pytest.raises(CheckpointError, match=rf"{last}C_im is missing.*all of its"):
        model.load_state_dict(state, strict=False)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_part_of_the_weights_loads_where_strict_is_false():
    model, small = build(), build(CUT)
    optimizer = torch.optim.AdamW(model.parameters())
    some = {k: v for k, v in small.state_dict().items() if "blocks.0.layer" in k}
    model.load_state_dict(some, strict=False)
    assert list(state_dims(model).values()) == [CUT, FULL]
    assert parameters_alive(model, optimizer)


def test_an_earlier_checkpoint_of_the_same_process():
    parts = start(lambda model: model)
    torch.manual_seed(1)
    go(parts, 1)
    states = [copy.deepcopy(part.state_dict()) for part in parts]
    random = torch.get_rng_state()
    go(parts, 3)
    expected = copy.deepcopy(parts[0].state_dict())
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    assert set(state_dims(parts[0]).values()) == {FULL}
    torch.set_rng_state(random)
    go(parts, 3)
    torch.testing.assert_close(parts[0].state_dict(), expected, rtol=0, atol=0)


def test_assigned_weights_are_held_by_the_optimizers():
    model, small = nn.Sequential(LRU(3, 8)), nn.Sequential(LRU(3, 5).double())
    optimizer = torch.optim.AdamW(model.parameters())
    model.load_state_dict(small.state_dict(), assign=True)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    sized = [p for name, p in model[0].named_parameters() if name != "D"]
    assert all(p.dtype == torch.float64 and id(p) in held for p in sized)


def test_a_shared_layer_stays_shared():
    layer = LRU(3, 8)
    model, other = nn.Sequential(layer, layer), nn.Sequential(layer)
    small = LRU(3, 5)
    model.load_state_dict(nn.Sequential(small, small).state_dict())
    assert other[0].state_dim == 5
    assert model[0] is model[1]
