"""A Mamba-1 mixer as one node of autograd, against its parts in float64."""

import re

import pytest
import torch
from torch.nn import functional

from compressm.errors import InputError
from compressm.ops import inner, mamba_inner
from compressm.ops.reference import selective_scan_reference
from tests.ops.selective import assert_close, exact

SIZES = [(2, 40, 16, 6, 4, 3, 5), (1, 17, 33, 1, 1, 1, 2), (3, 5, 1, 3, 4, 2, 1)]


def problem(batch, length, channels, states, taps, rank, width, dtype=torch.float64):
    """All arguments of `mamba_inner`, as leaves."""
    shapes = {
        "xz": (batch, length, 2 * channels),
        "conv_weight": (channels, taps),
        "conv_bias": (channels,),
        "x_proj": (rank + 2 * states, channels),
        "dt_proj": (channels, rank),
        "dt_bias": (channels,),
        "A": (channels, states),
        "D": (channels,),
        "out_proj": (width, channels),
        "out_bias": (width,),
    }
    given = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    given["A"] = -given["A"].abs()
    return {name: leaf.requires_grad_() for name, leaf in given.items()}


def reference(xz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj, out_bias=None):
    """The same by PyTorch's own convolution and the slow scan."""
    x, z = xz.transpose(1, 2).chunk(2, 1)
    taps, states = conv_weight.shape[1], A.shape[1]
    padded = functional.pad(x, (taps - 1, 0))
    u = functional.conv1d(padded, conv_weight[:, None], conv_bias, groups=x.shape[1])
    u = functional.silu(u)
    parts = u.transpose(1, 2) @ x_proj.t()
    steps, B, C = parts.split([dt_proj.shape[1], states, states], -1)
    delta, B, C = ((steps @ dt_proj.t()).transpose(1, 2), B.transpose(1, 2), C.transpose(1, 2))
    y, _ = selective_scan_reference(u, delta, A, B, C, D, z, dt_bias, True)
    return functional.linear(y.transpose(1, 2), out_proj, out_bias)


def outcome(function, arguments):
    y = function(**arguments)
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    grads = torch.autograd.grad(y, list(arguments.values()), direction)
    return {"y": y, **dict(zip(arguments, grads, strict=True))}


@pytest.fixture
def nodes(monkeypatch):
    """The inputs of every call that went through the one node."""
    calls = []
    plain = inner._Inner.apply
    monkeypatch.setattr(inner._Inner, "apply", lambda *x: calls.append(x) or plain(*x))
    return calls


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-5)])
@pytest.mark.parametrize("missing", [None, "conv_bias", "dt_bias", "D", "out_bias"])
def test_values_and_gradients_are_those_of_the_reference(nodes, sizes, dtype, tolerance, missing):
    arguments = problem(*sizes, dtype)
    arguments.pop(missing, None)
    absent = {missing: None} if missing not in (None, "out_bias") else {}
    got = outcome(lambda **x: mamba_inner(**absent, **x), arguments)
    want = outcome(lambda **x: reference(**absent, **x), exact(arguments))
    assert len(nodes) == 1
    assert_close(got, want, tolerance)


def test_gradcheck():
    arguments = problem(1, 5, 3, 2, 2, 1, 2)
    names = list(arguments)
    assert torch.autograd.gradcheck(
        lambda *x: mamba_inner(**dict(zip(names, x, strict=True))), tuple(arguments.values())
    )


@pytest.mark.parametrize("way", ["no gradients", "no kernel", "compiled"])
def test_elsewhere_the_parts_give_the_same(nodes, monkeypatch, way):
    arguments = problem(2, 20, 17, 3, 4, 2, 5)
    want = mamba_inner(**arguments)
    nodes.clear()
    function = mamba_inner
    if way == "no kernel":
        monkeypatch.setattr(inner, "kernels", lambda: None)
    elif way == "compiled":
        function = torch.compile(mamba_inner, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(way != "no gradients"):
        got = function(**arguments)
    assert not nodes
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_frozen_weights_get_no_gradient_and_the_others_the_same():
    arguments = problem(2, 20, 17, 3, 4, 2, 5)
    want = outcome(mamba_inner, arguments)
    for name in ("x_proj", "dt_proj", "out_proj", "conv_weight", "A"):
        arguments[name].requires_grad_(False)
    y = mamba_inner(**arguments)
    generator = torch.Generator().manual_seed(3)
    y.backward(torch.randn(y.shape, generator=generator, dtype=torch.float64))
    for name, leaf in arguments.items():
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, want[name])
        else:
            assert leaf.grad is None


def test_under_autocast_the_products_are_in_bfloat16(nodes):
    arguments = problem(2, 33, 48, 6, 4, 3, 20, torch.float32)
    for name in ("x_proj", "dt_proj", "out_proj"):
        arguments[name] = (arguments[name].detach() / 7).requires_grad_()
    want = outcome(mamba_inner, arguments)
    with torch.autocast("cpu", torch.bfloat16):
        got = outcome(mamba_inner, arguments)
    assert len(nodes) == 2
    assert got["y"].dtype == torch.bfloat16
    assert_close(got, {name: x.double() for name, x in want.items()}, 0.04)
    assert not torch.equal(got["y"].float(), want["y"])


ARGUMENTS = list(problem(2, 20, 17, 3, 4, 2, 5))


@pytest.mark.parametrize(
    ("wrong", "shape"),
    # A matrix `A` of another size cannot be told from others that do not fit it.
    [(name, shape) for name in ARGUMENTS for shape in [(1,), ()]]
    + [(name, (7, 7)) for name in ARGUMENTS if name != "A"],
)
def test_shapes_that_do_not_fit_are_named(wrong, shape):
    arguments = problem(2, 20, 17, 3, 4, 2, 5)
    arguments[wrong] = torch.zeros(shape)
    with pytest.raises(InputError, match=rf"{wrong}: got shape {re.escape(str(shape))}, expected"):
        mamba_inner(**arguments)
