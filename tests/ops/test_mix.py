"""The one-pass block against its plain formula."""

import pytest
import torch
from torch.nn.functional import gelu, glu, linear

from compressm.nn import LRU, Block
from compressm.nn.dropout import dropped_levels, random_bits
from compressm.ops import mix as mix_module
from compressm.ops import narrow_mix, suits_narrow_mix


@pytest.fixture(autouse=True, params=["kernel", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(mix_module, "kernels", lambda: None)
    elif mix_module.kernels() is None:
        pytest.skip("no C++ compiler")
    return request.param


def inputs(width, p, dtype=torch.float64, rows=(3, 11)):
    z, x = torch.randn(2, *rows, width, dtype=dtype)
    weight, bias = torch.randn(2 * width, width, dtype=dtype), torch.randn(2 * width, dtype=dtype)
    bits = [random_bits(z) if p else None for _ in range(2)]
    return [t.requires_grad_() for t in (z, x, weight, bias)], (*bits, dropped_levels(p))


def by_definition(z, x, weight, bias, inner, outer, dropped):
    def drop(t, bits):
        if bits is None:
            return t
        return torch.where(bits.int() + 32768 >= dropped, t / (1 - dropped / 65536), 0)

    return x + drop(glu(linear(drop(gelu(z), inner), weight, bias), dim=-1), outer)


@pytest.mark.parametrize("width", [1, 3, 8, 13, 16, 31])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_those_of_the_formula(width, p, dtype):
    given, drops = inputs(width, p, dtype)
    close = (
        {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    )
    y, expected = narrow_mix(*given, *drops), by_definition(*given, *drops)
    torch.testing.assert_close(y, expected, **close)
    g = torch.randn_like(y)
    got = torch.autograd.grad(y, given, g)
    torch.testing.assert_close(got, torch.autograd.grad(expected, given, g), **close)


def test_extreme_values():
    x = torch.linspace(-60, 60, 481)[:, None]
    weight, bias = torch.tensor([[1.0], [0.0]]), torch.zeros(2)
    y = narrow_mix(x, torch.zeros_like(x), weight, bias)
    torch.testing.assert_close(y, gelu(x) / 2, rtol=1e-6, atol=1e-6)


def test_registered_as_pytorch_wants_it():
    given, drops = inputs(5, 0.3, rows=(2, 3))
    torch.library.opcheck(mix_module._mix, (*given, *drops))
    assert torch.autograd.gradcheck(lambda *t: narrow_mix(*t, *drops), given)
    assert torch.autograd.gradgradcheck(lambda *t: narrow_mix(*t, *drops), given)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_do_not_depend_on_the_number_of_threads(threads):
    given, drops = inputs(8, 0.1, torch.float32, rows=(5, 101))
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            found.append(torch.autograd.grad(narrow_mix(*given, *drops).square().sum(), given))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_block_is_the_same_in_one_pass_and_in_many(monkeypatch):
    block = Block(LRU(6, 4), dropout=0.2)
    x = torch.randn(2, 9, 6)
    torch.manual_seed(0)
    at_once = block(x)
    calls = []
    block.glu.register_forward_hook(lambda *_: calls.append(1))  # now it has to be called
    torch.manual_seed(0)
    torch.testing.assert_close(block(x), at_once, rtol=1e-5, atol=1e-6)
    assert calls == [1]


def test_only_where_it_pays():
    wide = torch.randn(2, 64)
    assert not suits_narrow_mix(wide, wide, wide)
    half = torch.randn(2, 8, dtype=torch.bfloat16)
    assert not suits_narrow_mix(half, half, half)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = torch.randn(2, 8)
        assert not suits_narrow_mix(narrow, narrow, narrow)
