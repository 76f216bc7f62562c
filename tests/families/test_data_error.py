"""The `data_error` of an event: that of the layer as it is written, on the batches, by any method.

||y - y'|| / ||y - y_0||, with y_0 what the layer puts out without its states.
"""

import copy

import pytest
import torch

from compressm import FixedRank, compress_
from compressm.families import find_sites
from compressm.families.matrix_state.corrections import descent
from compressm.nn import LRU, S4D
from compressm.nn.matrix_state import GatedDeltaNet, GatedLinearAttention, LinearAttention
from tests.families import mambas

WIDTH = mambas.WIDTH
MATRIX = {
    "linear attention": lambda: LinearAttention(WIDTH, 6, heads=2),
    "GLA": lambda: GatedLinearAttention(WIDTH, 6, heads=2),
    "delta rule": lambda: GatedDeltaNet(WIDTH, 6, heads=2),
    "Mamba": lambda: mambas.Mamba(WIDTH, 6),
    "Mamba2": lambda: mambas.language_model("Mamba2", 6),
    "Jamba": lambda: mambas.language_model("Jamba", 6),
}
LINEAR = {"LRU": lambda: LRU(WIDTH, 6), "S4D": lambda: S4D(WIDTH, 6)}


def made(name):
    torch.manual_seed(0)
    return ((MATRIX | LINEAR)[name])().double().eval()


def cases(kinds):
    return [
        (name, method)
        for name in kinds
        for method in next(iter(find_sites(made(name)).values())).adapter.methods
    ]


def seen(model, batch):
    """The layer, its first arguments, and what it puts out for them."""
    (site,) = find_sites(model).values()
    calls = []

    def hook(module, args, kwargs, output):
        calls.append((args, kwargs, output[0] if isinstance(output, tuple) else output))

    handle = site.module.register_forward_hook(hook, with_kwargs=True)
    with torch.no_grad():
        model(batch, use_cache=False) if batch.ndim == 2 else model(batch)
    handle.remove()
    return site, *calls[0]


def without_states(model, batch):
    site, args, kwargs, _ = seen(model, batch)
    if isinstance(site.module, (LRU, S4D)):
        return args[0] * site.module.D.detach()
    layer = site.adapter.read(site.module)
    s = layer.signals(*site.adapter.inputs(args, kwargs))
    return layer.output(site.adapter.inputs(args, kwargs)[0], s, torch.zeros_like(s.values))


@pytest.mark.parametrize(("name", "method"), [*cases(MATRIX), *cases(LINEAR)])
def test_it_is_that_of_the_layer_as_written(name, method, monkeypatch):
    monkeypatch.setattr(descent.Descent, "more", 2**13)
    full = made(name)
    g = torch.Generator().manual_seed(3)
    tokens = name in ("Mamba2", "Jamba")
    batch = (
        torch.randint(3, 48, (4, 40), generator=g)
        if tokens
        else torch.randn(4, 40, WIDTH, generator=g, dtype=torch.float64)
    )
    data = [{"input_ids": batch, "use_cache": False}] if tokens else [batch]
    cut = copy.deepcopy(full)
    given = {"loss": lambda model, batch: _first(model, batch).square().mean()}
    (site,) = compress_(cut, policy=FixedRank(4), method=method, data=data, **given).sites
    y, reduced, skip = seen(full, batch)[3], seen(cut, batch)[3], without_states(full, batch)
    expected = float((y - reduced).norm() / (y - skip).norm())
    # Some look at a part of the time steps.
    rough = {"greedy-output": 0.2}.get(method, 0.1 if name == "S4D" else 0.02)
    assert site.data_error == pytest.approx(expected, rel=rough)


def _first(model, batch):
    out = model(**batch) if isinstance(batch, dict) else model(batch)
    return out if isinstance(out, torch.Tensor) else out[0]


def test_without_data_there_is_none():
    for name, method in (("LRU", "real-pairs"), ("linear attention", "magnitude")):
        (site,) = compress_(made(name), policy=FixedRank(3), method=method).sites
        assert site.data_error is None
