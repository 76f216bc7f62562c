"""Every backend against the float64 loop: values, gradients, odd sizes, extreme poles."""

import pytest
import torch

from compressm.errors import InputError
from compressm.ops import BACKENDS, diagonal_ssm, scan_states
from compressm.ops.reference import diagonal_ssm_reference

SIZES = [  # batch, length, width, states
    (3, 77, 5, 7),
    (1, 1, 1, 1),
    (2, 2, 3, 1),
    (1, 131, 1, 9),
    (2, 64, 4, 6),
    (2, 37, 8, 3),
]


def problem(batch, length, width, states, dtype=torch.float64, decay=0.2):
    """Leaves u, decay, phase, B_re, B_im, C_re, C_im, D."""
    leaves = [
        torch.randn(batch, length, width, dtype=dtype),
        torch.rand(states, dtype=dtype) * decay + 1e-4,
        torch.rand(states, dtype=dtype) * 6.28,
        *(torch.randn(states, width, dtype=dtype) for _ in range(2)),
        *(torch.randn(width, states, dtype=dtype) for _ in range(2)),
        torch.randn(width, dtype=dtype),
    ]
    return [leaf.requires_grad_() for leaf in leaves]


def reference(u, decay, phase, B_re, B_im, C_re, C_im, D, state=None):
    B, C = (torch.complex(re.double(), im.double()) for re, im in ((B_re, B_im), (C_re, C_im)))
    return diagonal_ssm_reference(u, decay, phase, B, C, D, state)


def assert_close(actual, expected, tolerance):
    """Error relative to the largest entry: a gradient near zero has no digits of its own."""
    assert actual.shape == expected.shape
    scale = max(expected.abs().max().item(), 1e-30)
    error = (actual.double() - expected).abs().max().item()
    assert error <= tolerance * scale, f"{error / scale:.1e} > {tolerance:.0e}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_values_and_gradients_match_the_loop(backend, sizes, dtype, tolerance):
    leaves = problem(*sizes, dtype=dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    weight = torch.randn(sizes[:3], dtype=torch.float64)

    y = diagonal_ssm(*leaves, backend=backend)
    expected, _ = reference(*exact)
    assert y.dtype == dtype
    assert_close(y, expected, tolerance)

    gradients = torch.autograd.grad((y * weight.to(dtype)).sum(), leaves)
    wanted = torch.autograd.grad((expected * weight).sum(), exact)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    leaves = problem(2, 11, 2, 3)
    assert torch.autograd.gradcheck(lambda *x: diagonal_ssm(*x, backend=backend), leaves)


@pytest.mark.parametrize("backend", ["chunk", "scan"])
def test_second_derivatives(backend):
    leaves = problem(1, 7, 2, 2)
    assert torch.autograd.gradgradcheck(lambda *x: diagonal_ssm(*x, backend=backend), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [(3, 20, 4, 5), (1, 600, 40, 40)])
def test_layout_of_the_input_does_not_matter(backend, sizes):
    leaves = problem(*sizes, dtype=torch.float32)
    u = leaves[0].detach()
    strided = u.transpose(0, 2).contiguous().transpose(0, 2)
    widened = torch.stack((u, u), -1)[..., 0]
    expected = diagonal_ssm(u, *leaves[1:], backend=backend)
    for same in (strided, widened):
        assert not same.is_contiguous()
        assert_close(diagonal_ssm(same, *leaves[1:], backend=backend), expected.double(), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_feed_through(backend):
    *leaves, _ = problem(2, 19, 3, 4)
    expected, _ = reference(*leaves, None)
    torch.testing.assert_close(diagonal_ssm(*leaves, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decay", [1e-9, 1e-5, 1.0, 30.0, 500.0])
def test_poles_at_both_ends_of_the_disc(backend, decay):
    """|λ| from 1 - 1e-9 to below the smallest float: nothing is divided by a power of λ."""
    leaves = problem(2, 200, 3, 4)
    with torch.no_grad():
        leaves[1].fill_(decay)
    exact, _ = reference(*leaves)
    wanted = torch.autograd.grad(exact.sum(), leaves)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        cast = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
        y = diagonal_ssm(*cast, backend=backend)
        assert_close(y, exact, tolerance)
        got = torch.autograd.grad(y.sum(), cast)
        for index, (gradient, want) in enumerate(zip(got, wanted, strict=True)):
            # With |λ| = e^-500 the true gradient of λ is no float32; it must vanish, not be NaN.
            if index in (1, 2) and decay >= 30:
                assert gradient.isfinite().all()
            else:
                assert_close(gradient, want, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_sequences_stay_accurate_in_float32(backend):
    """Phases of 10^5 radians: the powers need their exponents in float64."""
    leaves = problem(1, 20_011, 1, 4, dtype=torch.float32, decay=1e-3)
    with torch.no_grad():
        y = diagonal_ssm(*leaves, backend=backend)
        exact = diagonal_ssm(*(leaf.double() for leaf in leaves), backend="scan")
    assert y.isfinite().all()
    assert_close(y, exact, 2e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_output_is_causal(backend):
    leaves = problem(1, 50, 2, 3)
    with torch.no_grad():
        before = diagonal_ssm(*leaves, backend=backend)
        leaves[0][:, 30:] += 1e3
        after = diagonal_ssm(*leaves, backend=backend)
    torch.testing.assert_close(before[:, :30], after[:, :30], rtol=0, atol=1e-9)
    assert (before[:, 30:] - after[:, 30:]).abs().max() > 1


def test_state_carries_over_a_cut_in_time():
    leaves = problem(2, 45, 3, 4)
    u, decay, phase, B_re, B_im, C_re, C_im, D = leaves
    B, C = torch.complex(B_re, B_im), torch.complex(C_re, C_im)
    whole, last = scan_states(u, decay, phase, B, C, D)
    first, middle = scan_states(u[:, :17], decay, phase, B, C, D)
    second, end = scan_states(u[:, 17:], decay, phase, B, C, D, middle)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    torch.testing.assert_close(end, last)
    torch.testing.assert_close(last, reference(*leaves)[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_is_computed_in_float32(backend):
    leaves = problem(2, 300, 4, 5, dtype=torch.float32, decay=1e-3)
    expected = diagonal_ssm(leaves[0].bfloat16(), *leaves[1:], backend=backend)
    assert expected.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = diagonal_ssm(*leaves, backend=backend)
    assert y.dtype == torch.float32
    exact, _ = reference(*leaves)
    assert_close(y, exact, 1e-5)
    y.sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_empty_batch_and_bad_arguments():
    leaves = problem(2, 5, 3, 4)
    assert diagonal_ssm(leaves[0][:0], *leaves[1:]).shape == (0, 5, 3)
    with pytest.raises(InputError, match="'quick' is unknown; use one of 'auto', 'fft'"):
        diagonal_ssm(*leaves, backend="quick")
    with pytest.raises(InputError, match="length >= 1"):
        diagonal_ssm(leaves[0][:, :0], *leaves[1:])


# Dynamo itself instantiates the autograd functions that it traces, and reads `.grad` everywhere.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_to_the_same_values(backend):
    leaves = problem(2, 24, 3, 4, dtype=torch.float32)
    compiled = torch.compile(
        lambda *x: diagonal_ssm(*x, backend=backend), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(*leaves), diagonal_ssm(*leaves, backend=backend))
