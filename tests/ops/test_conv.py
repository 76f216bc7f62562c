"""The causal depthwise convolution, kernel and fallback, against PyTorch's own in float64."""

import sys
import types

import pytest
import torch
from torch.nn import functional

from compressm.errors import InputError
from compressm.ops import causal_conv1d, conv, gpu


@pytest.fixture(params=["kernel", "fallback"], autouse=True)
def backend(request, monkeypatch):
    if request.param == "fallback":
        monkeypatch.setattr(conv, "kernels", lambda: None)


def problem(batch, channels, length, taps, dtype, layout):
    x = torch.randn(batch, channels, length, dtype=dtype)
    if layout == "channels":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "gaps":
        x = torch.randn(batch, 2 * channels, length, dtype=dtype)[:, ::2]
    leaves = (x, torch.randn(channels, taps, dtype=dtype), torch.randn(channels, dtype=dtype))
    return [leaf.requires_grad_() for leaf in leaves]


def plain(x, weight, bias, silu):
    y = functional.conv1d(
        x, weight[:, None], bias, padding=weight.shape[1] - 1, groups=weight.shape[0]
    )[..., : x.shape[2]]
    return functional.silu(y) if silu else y


@pytest.mark.parametrize("sizes", [(2, 19, 37, 4), (1, 16, 1, 4), (3, 40, 16, 3), (1, 3, 5, 1)])
@pytest.mark.parametrize("layout", ["time", "channels", "gaps"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("silu", [True, False])
def test_values_and_gradients(sizes, layout, dtype, tolerance, silu):
    leaves = problem(*sizes, dtype, layout)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    direction = torch.randn(sizes[:3], dtype=torch.float64)
    got, want = causal_conv1d(*leaves, silu=silu), plain(*exact, silu)
    grads = torch.autograd.grad(got, leaves, direction.to(dtype))
    wanted = torch.autograd.grad(want, exact, direction)
    for a, b in zip((got, *grads), (want, *wanted), strict=True):
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max()


def test_without_bias_and_in_bfloat16():
    x, weight, _ = problem(2, 17, 20, 4, torch.bfloat16, "time")
    y = causal_conv1d(x, weight, silu=True)
    assert y.dtype == torch.bfloat16
    want = plain(x.double(), weight.double(), None, True)
    assert (y.double() - want).abs().max() < 0.02 * want.abs().max()
    y.float().sum().backward()
    assert weight.grad.dtype == torch.bfloat16


def test_it_is_registered_as_pytorch_wants_it():
    leaves = problem(2, 17, 20, 4, torch.float32, "channels")
    registered = conv._conv.registered
    torch.library.opcheck(registered, (*leaves, True))
    torch.library.opcheck(registered, (*(leaf.detach() for leaf in leaves[:2]), None, False))


def test_shapes_that_do_not_fit_are_refused():
    x, weight, bias = problem(2, 17, 20, 4, torch.float32, "time")
    with pytest.raises(InputError, match="taps"):
        causal_conv1d(x, weight[:5], bias)
    with pytest.raises(InputError, match=r"bias: got shape \(3,\)"):
        causal_conv1d(x, weight, bias[:3])


def test_on_a_gpu_the_cuda_package_runs_where_it_is_installed(monkeypatch):
    calls = []

    def stand_in(*tensors, **options):
        calls.append((tensors, options))
        return tensors[0]

    package = types.ModuleType("causal_conv1d")
    package.causal_conv1d_fn = stand_in
    monkeypatch.setitem(sys.modules, "causal_conv1d", package)
    find = gpu._find
    monkeypatch.setattr(gpu, "_find", lambda _, where: find(torch.device("cuda"), where))
    x, weight, bias = problem(2, 17, 20, 4, torch.float32, "time")
    assert causal_conv1d(x, weight, bias, silu=True) is x
    assert calls == [((x, weight, bias), {"activation": "silu"})]
    causal_conv1d(x, weight)
    assert calls[1] == ((x, weight, None), {"activation": None})
    monkeypatch.setitem(sys.modules, "causal_conv1d", None)
    assert gpu.causal_conv(torch.device("cuda")) is None
