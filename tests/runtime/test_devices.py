"""Tensors are made on a device that is named, so the ambient default device decides nothing."""

import ast
from pathlib import Path

import pytest
import torch
from torch.utils._device import _device_constructors

from compressm import FixedRank, compress_
from compressm.nn import LRU

PACKAGE = Path(__file__).parents[2] / "src" / "compressm"
# `*_like`, `new_*` and operations on tensors follow what they are given; these follow the default.
FACTORIES = {function.__name__.removeprefix("fft_") for function in _device_constructors()}
FACTORIES |= {"Generator"}


def unplaced(source):
    """Lines of the calls of `torch.<factory>` that name no device."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in FACTORIES
        and ast.unparse(node.func).startswith("torch.")
        and not any(keyword.arg == "device" for keyword in node.keywords)
    ]


def test_every_tensor_factory_names_its_device():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        found[path] = unplaced(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module == "torch":
                assert not FACTORIES & {alias.name for alias in node.names}, path
    assert len(found) > 100
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_rule_sees_a_factory_without_a_device():
    source = "torch.zeros(2)\ntorch.zeros(2, device=x.device)\nx.new_zeros(2)\ntorch.fft.fftfreq(4)"
    assert unplaced(source) == [1, 4]


@pytest.mark.parametrize("method", ["auto", "gradient-data"])
def test_a_cut_does_not_depend_on_the_default_device(method):
    batches, states = [torch.randn(4, 20, 3) for _ in range(2)], []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        model = LRU(3, 12, device="cpu")
        with torch.device(device):
            compress_(
                model,
                torch.optim.Adam(model.parameters()),
                policy=FixedRank(4),
                method=method,
                data=batches,
                loss=lambda model, batch: model(batch).square().sum(),
            )
        states.append(model.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_layer_is_made_where_torch_would_make_it():
    with torch.device("meta"):
        assert LRU(2, 3).B_re.is_meta
    assert LRU(2, 3, device="meta").D.is_meta
