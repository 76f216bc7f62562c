"""What a new parameter takes over from the one that it stands for."""

import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_
from compressm.edits import Edit, Selection
from compressm.nn import LRU
from compressm.writeback import Snapshot, commit_

KEPT = torch.tensor([3, 1])


def cut(net, optimizers=()):
    value = net.weight.detach()[KEPT]
    edit = Edit(module=net, names=("weight",), values=(value,), transport=Selection(KEPT, 0))
    commit_(net, [edit], optimizers)


@pytest.mark.parametrize("kind", [torch.float32, None])
@pytest.mark.parametrize("driven", [True, False])
def test_gradients_keep_the_dtype_that_was_set_for_them(kind, driven):
    net = nn.Linear(4, 5, bias=False).bfloat16()
    net.weight.grad_dtype = kind
    if driven:
        net.weight.grad = torch.randn(5, 4).to(kind or torch.float64)
        grad = net.weight.grad.clone()
    cut(net)
    assert net.weight.dtype == torch.bfloat16
    assert net.weight.grad_dtype == kind
    if driven:
        assert torch.equal(net.weight.grad, grad[KEPT])


def test_a_layer_goes_on_to_accumulate_in_single_precision():
    layer = LRU(4, 16).bfloat16()
    for p in layer.parameters():
        p.grad_dtype = torch.float32
    u = torch.randn(2, 10, 4).bfloat16()
    layer(u).float().sum().backward()
    compress_(layer, policy=FixedRank(8))
    assert layer.B_re.grad.dtype == torch.float32
    layer.zero_grad()
    layer(u).float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}


def test_what_lay_in_shared_memory_does_so_again():
    net = nn.Linear(4, 5, bias=False).share_memory()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    net.weight.grad.share_memory_()
    optimizer.state[net.weight]["exp_avg"].share_memory_()
    cut(net, [optimizer])
    assert net.weight.is_shared()
    assert net.weight.grad.is_shared()
    state = optimizer.state[net.weight]
    assert state["exp_avg"].is_shared()
    assert not state["exp_avg_sq"].is_shared()
    apart = nn.Linear(4, 5, bias=False)
    cut(apart)
    assert not apart.weight.is_shared()


def test_a_snapshot_of_another_process_gives_back_parameters_with_the_marks_of_this_one():
    whole = nn.Linear(4, 5, bias=False).bfloat16()
    whole.weight.grad_dtype = torch.float32
    whole.weight.grad = torch.randn(5, 4)
    state = Snapshot(whole).state_dict()
    net = nn.Linear(4, 2, bias=False).bfloat16()
    net.weight.grad_dtype, net.weight._no_weight_decay = torch.float32, True
    Snapshot.from_state_dict(state, net).restore()
    assert torch.equal(net.weight, whole.weight)
    assert torch.equal(net.weight.grad, whole.weight.grad)
    assert net.weight._no_weight_decay
