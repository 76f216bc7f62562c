"""The kernel for narrow layers as an operator; its numbers are in test_operators."""

import pytest
import torch

from compressm.errors import InputError
from compressm.ops import _diagonal_op, choose, diagonal_ssm
from compressm.ops._diagonal_op import diagonal
from compressm.ops.reference import diagonal_ssm_reference


@pytest.fixture(autouse=True, params=["kernel", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(_diagonal_op, "kernels", lambda: None)
    elif _diagonal_op.kernels() is None:
        pytest.skip("no C++ compiler")


def inputs(*, batch=3, length=37, width=3, states=5, through=True, dtype=torch.float64):
    u = torch.randn(batch, length, width, dtype=dtype)
    lam = torch.polar(
        torch.rand(states, dtype=dtype) * 0.5 + 0.49, torch.randn(states, dtype=dtype)
    )
    B, C = torch.randn(2, states, width, dtype=dtype), torch.randn(2, width, states, dtype=dtype)
    D = torch.randn(width, dtype=dtype) if through else None
    given = (u, lam.real.clone(), lam.imag.clone(), B[0], B[1], C[0], C[1], D)
    return [x if x is None else x.clone().requires_grad_() for x in given]


@pytest.mark.parametrize("sizes", [{}, {"width": 1, "states": 1}, {"width": 13, "states": 40}])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 70])
@pytest.mark.parametrize("through", [True, False])
def test_values_and_gradients_are_those_of_the_loop(sizes, length, through):
    given = inputs(length=length, through=through, **sizes)
    u, lam_re, lam_im, B_re, B_im, C_re, C_im, D = given
    lam, B, C = (torch.complex(*z) for z in ((lam_re, lam_im), (B_re, B_im), (C_re, C_im)))
    expected, _ = diagonal_ssm_reference(u, -lam.abs().log(), lam.angle(), B, C, D)
    y, _ = diagonal(*given)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    there, g = [x for x in given if x is not None], torch.randn_like(y)
    got, wanted = (torch.autograd.grad(o, there, g, materialize_grads=True) for o in (y, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("through", [True, False])
def test_registered_as_pytorch_wants_it(through):
    given = inputs(batch=2, length=4, states=2, through=through)
    torch.library.opcheck(diagonal, tuple(given))
    there = [x for x in given if x is not None]

    def call(*some):
        return diagonal(*some, *([] if through else [None]))[0]

    assert torch.autograd.gradcheck(call, there)
    assert torch.autograd.gradgradcheck(call, there)


def test_sums_do_not_depend_on_the_number_of_threads():
    given, before, found = inputs(batch=21, dtype=torch.float32), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(torch.autograd.grad(diagonal(*given)[0].square().sum(), given))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_states_that_vanish_at_once():
    decay, phase = torch.tensor([1e-9, 1.0, 80.0, 200.0]), torch.rand(4)
    u, B, C = torch.randn(2, 9, 3), torch.randn(2, 4, 3), torch.randn(2, 3, 4)
    lam = torch.exp(torch.complex(-decay, phase))
    got, _ = diagonal(u, lam.real, lam.imag, *B, *C, None)
    expected = diagonal_ssm(u, decay, phase, *B, *C, backend="scan")
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_where_it_cannot_run_it_is_refused_by_name(monkeypatch):
    with pytest.raises(InputError, match=r"'lanes' does not run on cuda here; use auto, "):
        choose(2, 9, 3, 4, backend="lanes", device="cuda")


def test_chosen_for_narrow_layers_with_few_states_only():
    if _diagonal_op.available():
        assert choose(50, 784, 8, 13).backend == "lanes"
    assert choose(50, 784, 8, 13, device="cuda").backend != "lanes"
    assert choose(2, 1024, 512, 96).backend == "scan"
