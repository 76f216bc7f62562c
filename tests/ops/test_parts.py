"""The pieces: matrix product, powers, impulse response, scan, FFT lengths, cost model."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from compressm.ops import BACKENDS, choose, linear, plans
from compressm.ops import gemm as gemm_module
from compressm.ops._diagonal_op import available
from compressm.ops.fft import fft_length
from compressm.ops.powers import impulse_response, powers
from compressm.ops.scan import scan


def layouts(rows, columns):
    """The same kind of matrix, row by row, column by column, and with gaps."""
    yield torch.randn(rows, columns)
    yield torch.randn(columns, rows).t()
    yield torch.randn(rows, 2 * columns)[:, ::2]


@pytest.mark.parametrize("sizes", [(130, 140, 150), (200, 300, 20), (20, 300, 200), (3, 4, 5)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_is_the_product_in_every_layout(sizes, with_bias):
    rows, inner, columns = sizes
    bias = torch.randn(columns).requires_grad_() if with_bias else None
    for x, weight in itertools.product(layouts(rows, inner), layouts(columns, inner)):
        x, weight = x.requires_grad_(), weight.requires_grad_()
        inputs = [x, weight, bias] if with_bias else [x, weight]
        y = linear(x, weight, bias)
        expected = x.double() @ weight.double().t() + (bias.double() if with_bias else 0)
        assert (y - expected).abs().max() < 1e-5 * expected.abs().max()
        assert y.is_contiguous()
        direction = torch.randn(columns, rows).t()
        got = torch.autograd.grad((y * direction).sum(), inputs)
        wanted = torch.autograd.grad((expected * direction.double()).sum(), inputs)
        for gradient, want in zip(got, wanted, strict=True):
            assert (gradient - want).abs().max() < 1e-5 * want.abs().max()


def test_linear_without_onednn_is_the_same(monkeypatch):
    x, weight = torch.randn(300, 64), torch.randn(100, 64)
    fast = linear(x, weight)
    monkeypatch.setattr(gemm_module, "_ONEDNN", False)
    torch.testing.assert_close(linear(x, weight), fast)


def test_linear_is_counted_and_transformed_as_that_of_torch():
    x, weight = torch.randn(300, 64), torch.randn(100, 64)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight)
    assert counter.get_total_flops() == 2 * 300 * 64 * 100
    weights = torch.randn(3, 100, 64)
    batched = torch.vmap(torch.func.grad(lambda w: linear(x, w).square().sum()))(weights)
    apart = torch.autograd.functional.jacobian(lambda w: (x @ w.mT).square().sum(), weights)
    torch.testing.assert_close(batched, apart, rtol=1e-4, atol=1e-2)


def test_linear_takes_part_in_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.randn(4, 3), torch.randn(5, 3)).dtype == torch.bfloat16


def test_powers_are_exact_at_large_exponents():
    decay, phase = torch.tensor([1e-5]), torch.tensor([6.1])
    exponents = torch.tensor([0, 1, 12_345, 99_999])
    exact = torch.exp(torch.complex(-decay.double(), phase.double())[:, None] * exponents)
    error = (powers(decay, phase, exponents) - exact).abs().max()
    assert error < 1e-7
    assert powers(torch.tensor([800.0]), phase, exponents).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("length", [1, 2, 3, 16, 23])
def test_impulse_response_is_the_markov_parameters(length):
    decay, phase = torch.rand(4).double(), torch.rand(4).double()
    B, C = torch.randn(4, 3, dtype=torch.complex128), torch.randn(2, 4, dtype=torch.complex128)
    kernel = impulse_response(decay, phase, B, C, length)
    lam = torch.exp(torch.complex(-decay, phase))
    for k in range(length):
        torch.testing.assert_close(kernel[..., k], (C @ torch.diag(lam**k) @ B).real)


@settings(max_examples=30)
@given(
    steps=st.integers(1, 130),
    batch=st.integers(1, 3),
    states=st.integers(1, 4),
    stride=st.integers(1, 5),
)
def test_scan_forwards_and_backwards_in_time(steps, batch, states, stride):
    v = torch.randn(batch, steps, states, dtype=torch.complex128)
    decay, phase = torch.rand(states).double(), torch.rand(states).double()
    factor = torch.exp(stride * torch.complex(-decay, phase))
    x, expected = torch.zeros(batch, states, dtype=torch.complex128), []
    for v_k in v.unbind(1):
        x = factor * x + v_k
        expected.append(x)
    expected = torch.stack(expected, 1)
    torch.testing.assert_close(scan(v, decay, phase, stride=stride), expected)
    backwards = scan(v.flip(1), decay, phase, stride=stride, reverse=True)
    torch.testing.assert_close(backwards.flip(1), expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_gradients(reverse):
    v = torch.randn(2, 70, 2, dtype=torch.complex128).requires_grad_()
    decay, phase = (torch.rand(2).double().requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda *x: scan(*x, stride=2, reverse=reverse), (v, decay, phase)
    )


@given(st.integers(1, 200_000))
def test_fft_length_is_long_enough_and_not_much_longer(at_least):
    n = fft_length(at_least)
    assert at_least <= n <= max(1.2 * at_least, at_least + 16)
    assert n % 16 == 0 or at_least <= 16


@settings(max_examples=60)
@given(
    batch=st.integers(1, 256),
    length=st.integers(1, 20_000),
    width=st.integers(1, 1024),
    states=st.integers(1, 1024),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_cost_model_ranks_all_backends(batch, length, width, states, device):
    ranked = plans(batch, length, width, states, device=device)
    here = [b for b in BACKENDS if b != "lanes" or (device == "cpu" and available())]
    assert sorted(p.backend for p in ranked) == sorted(here)
    assert all(p.seconds > 0 for p in ranked)
    assert ranked[0] == choose(batch, length, width, states, device=device)
    assert ranked[0].seconds <= ranked[1].seconds <= ranked[2].seconds
    for backend in here:
        plan = choose(batch, length, width, states, backend=backend, device=device)
        assert plan.backend == backend
        assert (plan.chunk > 1) <= (backend == "chunk")


def test_cost_model_sees_the_obvious():
    # An impulse response of 512×512 matrices is out of the question; so are all states of a
    # narrow layer with many states and many sequences, and an FFT of a handful of steps.
    assert choose(2, 1024, 512, 384).backend == "scan"
    assert choose(50, 784, 8, 256).backend == "fft"
    assert choose(50, 784, 8, 13).backend == ("lanes" if available() else "chunk")
    assert choose(1, 4, 64, 64).backend != "fft"
