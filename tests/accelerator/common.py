"""Models on the device, and the comparisons that these tests make."""

import torch
from torch import nn

from compressm.nn import SequenceClassifier
from tests.accelerator.device import DEVICE
from tests.families import mambas

FULL, CUT = 16, 6


def lru(dropout=0.0, device=DEVICE):
    """Two LRU layers."""
    torch.manual_seed(0)
    model = SequenceClassifier(
        input="real", features=1, width=6, state_dim=FULL, depth=2, classes=3, dropout=dropout
    )
    return model.to(device)


def mamba(kind=mambas.Mamba, device=DEVICE):
    """One layer as `mamba_ssm` has it, float64."""
    torch.manual_seed(0)
    layers = nn.Embedding(mambas.VOCABULARY, mambas.WIDTH), kind(mambas.WIDTH, FULL)
    return nn.Sequential(*layers).double().to(device)


BUILDS = {"lru": lru, "mamba": mamba, "mamba2": lambda **o: mamba(mambas.Mamba2, **o)}


def batches(kind, count=3):
    """Inputs on the CPU, as a data loader gives them."""
    if kind == "lru":
        return [torch.randn(8, 12, 1) for _ in range(count)]
    return [torch.randint(3, mambas.VOCABULARY, (4, 12)) for _ in range(count)]


def squared(model, batch):
    """A loss without labels."""
    return model(batch).square().mean()


def train(model, optimizer, data):
    """One step for each batch."""
    for batch in data:
        optimizer.zero_grad()
        squared(model, batch.to(DEVICE)).backward()
        optimizer.step()


def optimizer_devices(optimizer):
    """The device of each tensor of optimizer state that has the shape of its parameter."""
    return {
        value.device
        for parameter, state in optimizer.state.items()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape
    }


def same(a, b):
    """Bit for bit."""
    torch.testing.assert_close(a, b, rtol=0, atol=0)
