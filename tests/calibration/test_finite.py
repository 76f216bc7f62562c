"""NaN and infinity are refused by name, and nothing is changed."""

import copy

import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, Schedule, compress_
from compressm.calibration.finite import require_finite_layer
from compressm.errors import InputError, NonFiniteError
from compressm.nn import LRU, SequenceClassifier
from compressm.storage.bits import same
from tests.families import mambas

NAN, INF = float("nan"), float("inf")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.lru = LRU(3, 8)
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.lru(self.first(x)))


def trained(net):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net(torch.randn(2, 9, 3)).square().mean().backward()
    optimizer.step()
    return optimizer


@torch.no_grad()
def spoil(tensor, value=NAN):
    tensor.view(-1)[0] = value


@pytest.mark.parametrize("method", ["real-pairs-h2", "empirical-data"])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("name", [name for name, _ in LRU(3, 8).named_parameters()])
def test_every_parameter_of_a_layer_is_looked_at(name, value, method):
    net = Net()
    spoil(net.lru.get_parameter(name), value)
    before = copy.deepcopy(net.state_dict())
    data = [torch.randn(2, 9, 3)] if method == "empirical-data" else None
    with pytest.raises(NonFiniteError, match=rf"^layer 'lru': its parameter {name} holds 1 non-"):
        compress_(net, policy=FixedRank(4), method=method, data=data)
    assert same(net.state_dict(), before)


@pytest.mark.parametrize("name", [name for name, _ in mambas.Mamba(8, 8).named_parameters()])
def test_every_parameter_of_a_selective_layer_too(name):
    layer = mambas.Mamba(mambas.WIDTH, 8)
    spoil(layer.get_parameter(name))
    with pytest.raises(InputError, match=rf"its parameter {name} holds"):
        compress_(layer, policy=FixedRank(4), method="magnitude")


def test_buffers_of_a_layer_are_looked_at():
    norm = nn.BatchNorm1d(2)
    spoil(norm.running_var, INF)
    with pytest.raises(NonFiniteError, match=r"layer 'a.b': its buffer running_var holds 1 "):
        require_finite_layer("a.b", norm)


def test_in_a_loop_the_step_is_named():
    net = Net()
    optimizer = trained(net)
    compressor = Compressor(net, optimizer, policy=FixedRank(4), schedule=Schedule.at(3))
    spoil(net.lru.D)
    assert compressor.step(2) is None
    with pytest.raises(NonFiniteError, match=r"^step 3: layer 'lru': its parameter D holds"):
        compressor.step()


def test_an_infinite_gradient_of_a_skipped_step_is_no_reason_to_stop():
    net = Net()
    optimizer = trained(net)
    spoil(net.lru.B_re.grad, INF)
    assert compress_(net, optimizer, policy=FixedRank(4)).kind == "cut"
    # Whoever goes on with it, a scaler say, still sees that the step is to be skipped.
    assert not bool(torch.isfinite(net.lru.B_re.grad).all())
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


@pytest.mark.parametrize("entry", ["exp_avg", "exp_avg_sq"])
def test_moments_that_the_cut_would_carry(entry):
    net = Net()
    optimizer = trained(net)
    spoil(optimizer.state[net.lru.C_im][entry])
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    with pytest.raises(NonFiniteError, match=rf"AdamW: its {entry} of lru.C_im holds"):
        compress_(net, optimizer, policy=FixedRank(4))
    assert same((net.state_dict(), optimizer.state_dict()), before)
    assert compress_(net, optimizer, policy=FixedRank(4), transport="reset").kind == "cut"


def test_other_layers_moments_are_left_to_them():
    net = Net()
    optimizer = trained(net)
    spoil(optimizer.state[net.last.bias]["exp_avg"])
    assert compress_(net, optimizer, policy=FixedRank(4)).kind == "cut"


def test_data_that_hold_nan_are_named_by_batch():
    batches = [torch.randn(2, 9, 3) for _ in range(3)]
    spoil(batches[1])
    with pytest.raises(NonFiniteError, match="data: batch 1 holds NaN or infinity"):
        compress_(Net(), policy=FixedRank(4), data=batches)


@pytest.mark.parametrize("layer", [LRU, mambas.Mamba])
def test_activations_that_diverge_are_named_by_module_and_batch(layer):
    class Overflows(nn.Module):
        def forward(self, x):
            return x.exp()

    width = mambas.WIDTH
    net = nn.Sequential(
        nn.Linear(width, width), nn.Sequential(nn.Identity(), Overflows()), layer(width, 8)
    )
    net.append(nn.Linear(width, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(width))
    fine, large = torch.randn(2, 9, width), torch.full((2, 9, width), 100.0)
    with pytest.raises(NonFiniteError, match=r"in batch 2 .* at the output of 1.1 \(Overflows\)"):
        compress_(net, policy=FixedRank(4), data=[fine, fine, large])


def test_a_gradient_of_the_loss_that_is_no_number():
    def loss(model, batch):
        out = model(batch)
        return (out - out.detach()).square().sum().sqrt()  # 0, with the gradient 0/0

    with pytest.raises(NonFiniteError, match=r"loss: in batch 0 its gradient .* of layer 'lru'"):
        compress_(Net(), policy=FixedRank(4), data=[torch.randn(2, 9, 3)], loss=loss)


def test_what_a_mask_hides_may_be_anything():
    model = SequenceClassifier(input="real", features=1, width=6, state_dim=8, depth=1, classes=3)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 6:] = False
    batch = {"inputs": torch.randn(2, 9, 1), "mask": mask}
    assert compress_(model, policy=FixedRank(4), data=[batch]).kind == "cut"
