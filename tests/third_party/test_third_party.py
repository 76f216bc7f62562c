"""Layers of other packages, with adapters as their authors would write them from "Extending"."""

import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compressm import EnergyTolerance, compress_, load_compressed
from compressm.families import find_sites
from compressm.testing import Case, conformance
from tests.third_party import lru_pytorch as lru_pytorch
from tests.third_party import mamba_py as mamba_py
from tests.third_party import s5_pytorch as s5_pytorch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script, in s5-pytorch
    S5 = pytest.importorskip("s5.s5_model").S5
LRU = pytest.importorskip("LRU_pytorch").LRU
mamba = pytest.importorskip("mambapy.mamba")


def signal(batch=3, length=9, width=4):
    return torch.randn(batch, length, width)


def s5(states, **options):
    layer = S5(4, states, bcInit="dense", dt_min=0.1, dt_max=0.5, **options)
    with torch.no_grad():
        layer.seq.Lambda.real.mul_(torch.rand(states) + 0.5)  # HiPPO's are all alike
    return nn.Sequential(layer)


def lru(states):
    return nn.Sequential(LRU(4, 4, states, rmin=0.4, rmax=0.95))


def block(states, layers=1):
    config = mamba.MambaConfig(d_model=8, n_layers=layers, d_state=states, dt_rank=2)
    return mamba.Mamba(config)


def stepped(model, inputs):
    """One step after the other, with a cache for each block."""
    inner, taps = model.config.d_inner, model.config.d_conv
    caches = [(None, torch.zeros(len(inputs), inner, taps - 1)) for _ in model.layers]
    outputs = []
    for x in inputs.unbind(1):
        y, caches = model.step(x, caches)
        outputs.append(y)
    return torch.stack(outputs, 1)


CASES = {
    "s5-pytorch": Case(
        build=s5,
        inputs=signal,
        refused={
            "bidirectional": lambda states: s5(states, bidir=True),
            "liquid": lambda states: s5(states, liquid=True),
        },
        tolerance=1e-4,
    ),
    "lru-pytorch": Case(build=lru, inputs=signal, tolerance=1e-4),
    "mambapy": Case(build=block, inputs=lambda: signal(width=8), stream=stepped, tolerance=1e-4),
}

TestThirdParties = conformance(CASES)

MODELS = {
    "s5-pytorch": lambda: nn.Sequential(s5(12), nn.GELU(), s5(12), nn.Linear(4, 3)),
    "lru-pytorch": lambda: nn.Sequential(lru(12), nn.GELU(), lru(12), nn.Linear(4, 3)),
    "mambapy": lambda: nn.Sequential(block(12, layers=2), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("package", MODELS)
def test_a_model_is_trained_cut_trained_on_saved_and_loaded(package, tmp_path):
    model, inputs = MODELS[package](), CASES[package].inputs()
    targets = torch.randn(*inputs.shape[:2], 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    first = train(1)
    before = train(20)
    event = compress_(model, optimizer, policy=EnergyTolerance(0.1), data=[inputs])
    assert event.kind == "cut"
    assert before < first
    assert train(20) < before
    save_file(model.state_dict(), tmp_path / "cut.safetensors")
    fresh = MODELS[package]()
    load_compressed(fresh, tmp_path / "cut.safetensors")
    assert [site.state_dim for site in find_sites(fresh).values()] == [
        change.after for change in event.sites
    ]
    torch.testing.assert_close(fresh(inputs), model(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("uniform", [False, True])
def test_blocks_that_share_a_configuration_may_differ(uniform):
    """Each reads its size from it in `forward`, so each gets its own; the model's follows both."""
    model, inputs = block(12, layers=2), signal(width=8)
    with torch.no_grad():
        model.layers[1].mixer.x_proj.weight[3:] *= 1e-3
    policy = EnergyTolerance(0.3)
    one, other = compress_(model, policy=policy, data=[inputs], uniform=uniform).sites
    assert (one.after == other.after) is uniform
    assert [layer.mixer.config.d_state for layer in model.layers] == [one.after, other.after]
    assert model.config.d_state == (one.after if uniform else 12)
    assert bool(torch.isfinite(model(inputs)).all())
