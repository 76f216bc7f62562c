"""Layers with parameters of half precision: they compute as the same numbers in float32 do."""

import pytest
import torch

from compressm.nn import DSS, LRU, S4D, S5, LinOSS

LAYERS = {
    "LRU": lambda: LRU(4, 6),
    "S5": lambda: S5(4, 6),
    "S5-bilinear": lambda: S5(4, 6, discretisation="bilinear"),
    "S4D": lambda: S4D(4, 6),
    "DSS": lambda: DSS(4, 6),
    "LinOSS": lambda: LinOSS(4, 6),
    "LinOSS-im": lambda: LinOSS(4, 6, scheme="im"),
}


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def pair(request, name):
    """A layer in half precision, the same numbers in float32, and an input of both."""
    half = LAYERS[name]().to(request.param)
    full = LAYERS[name]().to(request.param).float()
    full.load_state_dict(half.state_dict())
    return half, full, torch.randn(2, 50, 4).to(request.param)


@pytest.mark.parametrize("name", LAYERS)
def test_sequences(pair):
    half, full, u = pair
    y = half(u)
    assert y.dtype == u.dtype
    torch.testing.assert_close(y, full(u.float()).to(u.dtype), rtol=0.02, atol=0.02)
    y.float().sum().backward()
    assert all(p.grad.dtype == u.dtype and p.grad.isfinite().all() for p in half.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_steps_keep_their_state_in_float32(pair):
    half, full, u = pair
    expected, state, outputs = full(u.float()), half.initial_state(2), []
    for step in range(u.shape[1]):
        y, state = half.step(u[:, step], state)
        assert (y.dtype, state.dtype) == (u.dtype, torch.float32)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), expected.to(u.dtype), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["LRU"])
def test_blocks_keep_their_state_in_float32(pair):
    half, full, u = pair
    first, state = half.stream(u[:, :20], half.initial_state(2))
    second, state = half.stream(u[:, 20:], state)
    assert (second.dtype, state.dtype) == (u.dtype, torch.float32)
    found = torch.cat([first, second], 1)
    torch.testing.assert_close(found, full(u.float()).to(u.dtype), rtol=0.02, atol=0.02)
