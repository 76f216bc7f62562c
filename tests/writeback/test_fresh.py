"""Optimizer state that starts anew: as before the first step, written down where that matters."""

import copy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from compressm import Compressor, FixedRank, Schedule, resize_
from compressm.edits import Edit, Reset
from compressm.nn import SequenceClassifier, state_dims
from compressm.writeback import commit_

OPTIMIZERS = {
    "adam-amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw-fused": (torch.optim.AdamW, {"fused": True}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "adamax": (torch.optim.Adamax, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adafactor": (torch.optim.Adafactor, {}),
    "adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    "asgd": (torch.optim.ASGD, {"t0": 1}),
    "muon": (torch.optim.Muon, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
    "rprop": (torch.optim.Rprop, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "sgd-dampened": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
}


def net_of(rows=6):
    torch.manual_seed(0)
    return nn.Linear(4, rows, bias=False)


def step(net, optimizer):
    torch.manual_seed(1)
    optimizer.zero_grad()
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()


def cut(net, optimizer):
    value = net.weight.detach().double()[:3] + 0.1
    edit = Edit(module=net, names=("weight",), values=(value,), transport=Reset())
    commit_(net, [edit], [optimizer], transport="reset")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_step_is_bit_for_bit_that_of_a_parameter_that_never_had_a_state(name):
    make, options = OPTIMIZERS[name]
    net, new = net_of(), net_of(3)
    optimizer = make(net.parameters(), lr=1e-2, **options)
    for _ in range(3):
        step(net, optimizer)
    keys = optimizer.state[net.weight].keys()
    cut(net, optimizer)
    assert name == "sgd-dampened" or optimizer.state[net.weight].keys() == keys
    new.load_state_dict(net.state_dict())
    other = make(new.parameters(), lr=1e-2, **options)
    for _ in range(2):
        step(net, optimizer)
        step(new, other)
        assert torch.equal(net.weight, new.weight)
    torch.testing.assert_close(optimizer.state[net.weight], other.state[new.weight], rtol=0, atol=0)


def test_what_a_wrapper_has_put_beside_the_state_leaves_with_it():
    net = net_of()
    optimizer = torch.optim.AdamW(net.parameters())
    step(net, optimizer)
    optimizer.state[net.weight]["slow"] = net.weight.detach().clone()
    cut(net, optimizer)
    assert net.weight not in optimizer.state


class CountsInItsGroup(torch.optim.Optimizer):
    """Adam without a first moment; one count of steps for the whole group, as schedule-free has."""

    def __init__(self, params, lr=1e-2):
        super().__init__(params, {"lr": lr, "k": 0})

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        group["k"] += 1
        for p in group["params"]:
            state = self.state[p]
            if "z" not in state:
                state["z"], state["exp_avg_sq"] = p.clone(), torch.zeros_like(p)
            state["exp_avg_sq"].lerp_(p.grad.square(), 0.001)
            size = (state["exp_avg_sq"] / (1 - 0.999 ** group["k"])).sqrt()
            state["z"].addcdiv_(p.grad, size + 1e-8, value=-group["lr"])
            p.copy_(state["z"])


def test_squares_whose_steps_are_counted_in_the_group_start_at_their_size():
    """From zero, after 500 steps, the first step would be some twenty times too long."""
    net = net_of()
    optimizer = CountsInItsGroup(net.parameters())
    for _ in range(500):
        optimizer.zero_grad()
        (net.weight * torch.randn(6, 4)).sum().backward()
        optimizer.step()
    squares = optimizer.state[net.weight]["exp_avg_sq"].mean()
    cut(net, optimizer)
    state = optimizer.state[net.weight]
    torch.testing.assert_close(state["exp_avg_sq"], squares.expand(3, 4))
    assert torch.equal(state["z"], net.weight)
    before = net.weight.detach().clone()
    optimizer.zero_grad()
    net.weight.sum().backward()
    optimizer.step()
    assert float((net.weight - before).detach().abs().max()) < 0.02


def test_other_weights_in_the_middle_of_a_run_start_the_states_of_the_resized_anew():
    model, small = classifier(16), classifier(6)
    optimizer = torch.optim.Adagrad(model.parameters(), initial_accumulator_value=0.5)
    Compressor(model, optimizer, policy=FixedRank(4), schedule=Schedule.at(99), method="real-pairs")
    train(model, optimizer, 2)
    model.load_state_dict(small.state_dict())
    layer = model.encoder.blocks[0].layer
    assert torch.equal(optimizer.state[layer.B_re]["sum"], torch.full_like(layer.B_re, 0.5))
    assert all(optimizer.state[p]["step"] == 2 for p in model.head.parameters())


def classifier(states):
    torch.manual_seed(0)
    return SequenceClassifier(
        input="real", features=1, width=6, state_dim=states, depth=1, classes=3, dropout=0.0
    )


def train(model, optimizer, steps, compressor=None):
    for i in range(steps):
        torch.manual_seed(i)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(4, 8, 1)), torch.randint(3, (4,)))
        loss.backward()
        optimizer.step()
        if compressor is not None:
            compressor.step()


@pytest.mark.parametrize("name", ["adamw-fused", "nadam", "adagrad", "rprop", "sgd"])
@pytest.mark.filterwarnings("ignore:optimizer state that no transport rule covers")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:torch.distributed is")
def test_a_distributed_checkpoint_from_right_after_a_cut_goes_on_bit_for_bit(name, tmp_path):
    make, options = OPTIMIZERS[name]

    def run():
        model = classifier(16)
        optimizer = make(model.parameters(), lr=1e-2, **options)
        compressor = Compressor(
            model, optimizer, policy=FixedRank(6), schedule=Schedule.at(3), method="real-pairs"
        )
        return model, optimizer, compressor

    model, optimizer, compressor = run()
    train(model, optimizer, 3, compressor)
    dcp.save(states_of(model, optimizer), checkpoint_id=tmp_path)
    count = copy.deepcopy(compressor.state_dict())
    train(model, optimizer, 2, compressor)

    other, its, cutter = run()
    resize_(other, state_dims(model))
    loaded = states_of(other, its)
    dcp.load(loaded, checkpoint_id=tmp_path)
    set_state_dict(
        other, its, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
    )
    cutter.load_state_dict(count)
    train(other, its, 2, cutter)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def states_of(model, optimizer):
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}
