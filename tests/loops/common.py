"""A small model, its loss and a training step, for the tests of loops."""

import torch
from torch import nn

from compressm import Compressor, FixedRank, Schedule
from compressm.nn import SequenceClassifier

FULL, CUT = 16, 6


def build(states=FULL, depth=2):
    torch.manual_seed(0)
    return SequenceClassifier(
        input="real", features=1, width=6, state_dim=states, depth=depth, classes=3, dropout=0.0
    )


def batch():
    return torch.randn(8, 12, 1), torch.randint(3, (8,))


def loss_of(model, data):
    return nn.functional.cross_entropy(model(data[0]), data[1])


def train_step(model, optimizer):
    optimizer.zero_grad()
    loss = loss_of(model, batch())
    loss.backward()
    optimizer.step()
    return loss.item()


def compressor_for(model, optimizer, *steps, **options):
    options = {"policy": FixedRank(CUT), "schedule": Schedule.at(*steps), **options}
    return Compressor(model, optimizer, **options)


def parameters_alive(model, optimizer):
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return held == {id(p) for p in model.parameters()}
