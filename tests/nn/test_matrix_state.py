"""Layers with matrix-valued states: the equations, masks, streaming, sizes, errors."""

import copy

import pytest
import torch
from torch.nn.functional import silu

from compressm.errors import InputError
from compressm.nn import make_layer, matrix_state
from compressm.nn.registry import StateSpaceLayer
from compressm.ops.reference import matrix_state_reference

NAMES = ("LinearAttention", "Retention", "GatedLinearAttention")
NAMES += ("DeltaNet", "GatedDeltaNet", "KimiDeltaAttention")
SIZES = {"heads": 3, "value_dim": 4}


@pytest.fixture(params=NAMES)
def kind(request):
    return getattr(matrix_state, request.param)


def by_definition(layer, u):
    """The equations of the docstrings, one step after the other, in float64."""
    made = []
    for letter in "qkv":
        x = u @ getattr(layer, f"{letter}_proj").weight.T
        kernel = getattr(layer, f"{letter}_conv")
        if kernel is not None:
            taps = kernel.shape[1]
            steps = range(u.shape[1])
            windows = [
                [x[:, t - i] * kernel[:, -1 - i] for i in range(taps) if t >= i] for t in steps
            ]
            x = silu(torch.stack([sum(window) for window in windows], 1))
        made.append(x.unflatten(-1, (layer.heads, -1)))
    q, k, v = made
    if layer.beta(u) is not None:
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    o, _ = matrix_state_reference(q, k, v, layer.decay(u), layer.beta(u))
    o = o / (o.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.norm_weight
    return (o.flatten(-2) * silu(u @ layer.g_proj.weight.T)) @ layer.out_proj.weight.T


def test_forward_is_the_definition(kind):
    layer = kind(6, 5, **SIZES).double()
    u = torch.randn(2, 37, 6).double()
    torch.testing.assert_close(layer(u), by_definition(layer, u), rtol=1e-9, atol=1e-9)


def test_gradients_of_all_parameters(kind):
    layer = kind(6, 5, **SIZES).double()
    u = torch.randn(2, 19, 6).double()
    parameters = list(layer.parameters())
    got = torch.autograd.grad(layer(u).square().sum(), parameters)
    wanted = torch.autograd.grad(by_definition(layer, u).square().sum(), parameters)
    assert all(bool(g.any()) for g in got)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("taps", [None, 0, 1, 3])
def test_steps_one_by_one_are_the_whole_sequence(kind, taps):
    layer = kind(6, 5, **SIZES, taps=taps).double()
    u = torch.randn(2, 17, 6).double()
    state, outputs = layer.initial_state(2), []
    for t in range(17):
        y, state = layer.step(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), layer(u))


def test_padding_on_the_left_is_harmless(kind):
    layer = kind(6, 5, **SIZES).double()
    u = torch.randn(2, 9, 6).double()
    padded = torch.cat([torch.randn(2, 4, 6).double(), u], 1)
    mask = torch.arange(13).expand(2, 13) >= 4
    torch.testing.assert_close(layer(padded, mask)[:, 4:], layer(u))


def test_it_is_a_layer_that_models_can_be_built_of(kind):
    layer = make_layer(REGISTERED[kind.__name__], 8, 4, heads=2)
    assert type(layer) is kind
    assert isinstance(layer, StateSpaceLayer)
    assert (layer.width, layer.state_dim) == (8, 4)
    u = torch.randn(2, 9, 8)
    torch.testing.assert_close(copy.deepcopy(layer)(u), layer(u))


REGISTERED = {
    "LinearAttention": "linear-attention",
    "Retention": "retention",
    "GatedLinearAttention": "gla",
    "DeltaNet": "deltanet",
    "GatedDeltaNet": "gated-deltanet",
    "KimiDeltaAttention": "kda",
}


def test_sizes_that_do_not_fit_are_told(kind):
    with pytest.raises(InputError, match=r">= 1, got width=8, state_dim=0"):
        kind(8, 0)
    with pytest.raises(InputError, match=r"3 heads do not divide the width 8"):
        kind(8, 4, heads=3)
    with pytest.raises(InputError, match="taps >= 0, got -1"):
        kind(8, 4, taps=-1)
    layer = kind(8, 4)
    with pytest.raises(InputError, match=r"\(batch, length >= 1, 8\), got \(2, 3, 7\)"):
        layer(torch.randn(2, 3, 7))
    with pytest.raises(InputError, match=r"mask must be"):
        layer(torch.randn(2, 3, 8), torch.ones(2, 4))


def test_the_chunks_of_a_device_without_the_kernel_learn_the_same(kind, monkeypatch):
    from compressm.ops import _matrix_op

    layer = kind(6, 5, **SIZES)
    u = torch.randn(2, 70, 6)
    parameters = list(layer.parameters())
    got = torch.autograd.grad(layer(u).square().sum(), parameters)
    monkeypatch.setattr(_matrix_op, "kernels", lambda: None)
    torch.testing.assert_close(
        torch.autograd.grad(layer(u).square().sum(), parameters), got, rtol=1e-3, atol=1e-4
    )
