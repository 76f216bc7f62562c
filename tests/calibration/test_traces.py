"""What `forward=` and `loss=` do to a model while it is measured stays out of the training."""

import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_, measure
from compressm.errors import InputError
from compressm.nn import LRU


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(4), LRU(4, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(self.norm(x.mT).mT)


def in_training(model, batch):
    model.train()
    return model(batch).square().mean()


def training_step(model, batch):
    """With a backward pass of its own, as those of trainers."""
    loss = in_training(model, batch)
    loss.backward(retain_graph=True)
    return loss


def data():
    return [torch.randn(3, 12, 4) for _ in range(2)]


@pytest.mark.parametrize(
    "options",
    [{}, {"forward": in_training}, {"loss": in_training}, {"loss": training_step}],
    ids=["plain", "forward", "loss", "training step"],
)
def test_buffers_and_gradients_are_as_before(options):
    model = Counting()
    in_training(model, data()[0]).backward()
    grads = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    measure(model, data=data(), **options)
    for name, parameter in model.named_parameters():
        assert parameter.grad is grads[name][0]
        torch.testing.assert_close(parameter.grad, grads[name][1], rtol=0, atol=0)
    compress_(model, policy=FixedRank(4), data=data(), **options)
    assert model.layer.state_dim == 4
    torch.testing.assert_close(dict(model.named_buffers()), buffers, rtol=0, atol=0)


def test_a_loss_that_steps_an_optimizer_is_refused():
    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(model, batch):
        in_training(model, batch).backward()
        optimizer.step()
        return in_training(model, batch)

    with pytest.raises(InputError, match=r"forward, loss: it changed norm.weight, norm.bias"):
        compress_(model, optimizer, policy=FixedRank(4), data=data(), loss=step)
    assert model.layer.state_dim == 8
