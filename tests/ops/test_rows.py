"""Norms and gated units in one pass over rows, kernel and fallback, against their formulas."""

import pytest
import torch

from compressm.errors import InputError
from compressm.ops import _row_kernel, norm, rms_norm, swiglu
from compressm.ops.build import kernels
from compressm.ops.swiglu import _swiglu

KINDS = [("none", False), ("silu", False), ("sigmoid", False), ("silu", True)]


@pytest.fixture(autouse=True, params=["kernel", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(_row_kernel, "kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("no C++ compiler")
    return request.param


def opened(z, activation):
    return torch.sigmoid(z) if activation == "sigmoid" else z * torch.sigmoid(z)


def by_definition(x, weight, gate, *, eps, offset, groups, activation, gate_first):
    u = x * opened(gate, activation) if gate_first else x
    lines = u.unflatten(-1, (groups, -1))
    n = lines / (lines.square().mean(-1, keepdim=True) + eps).sqrt()
    y = n.flatten(-2) * (offset + weight)
    return y if gate is None or gate_first else y * opened(gate, activation)


def problem(width, activation, dtype, *, rows=(3, 7), gaps=False):
    """x, w and z; with gaps x and z are slices of something wider."""
    x, z = torch.randn(2, *rows, width + 5 * gaps, dtype=dtype)[..., :width].unbind(0)
    weight = torch.randn(width, dtype=dtype)
    given = [x, weight] if activation == "none" else [x, weight, z]
    return [t.requires_grad_() for t in given]


def assert_same(run, formula, given, dtype, tolerance):
    exact = [t.detach().double().requires_grad_() for t in given]
    got, want = run(*given), formula(*exact)
    direction = torch.randn_like(want)
    found = torch.autograd.grad(got, given, direction.to(dtype))
    wanted = torch.autograd.grad(want, exact, direction)
    for a, b in zip((got, *found), (want, *wanted), strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize(("activation", "gate_first"), KINDS)
@pytest.mark.parametrize(("width", "groups"), [(1, 1), (6, 3), (16, 1), (39, 1), (100, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_norms_are_those_of_the_formula(activation, gate_first, width, groups, dtype, tolerance):
    how = {"eps": 1e-3, "offset": 1.0, "groups": groups, "gate_first": gate_first}
    how["activation"] = "silu" if activation == "none" else activation
    given = problem(width, activation, dtype, gaps=width == 39)

    def run(x, weight, gate=None):
        return rms_norm(x, weight, gate, **how)

    def formula(x, weight, gate=None):
        return by_definition(x, weight, gate, **how)

    assert_same(run, formula, given, dtype, tolerance)


@pytest.mark.parametrize("width", [1, 5, 16, 70])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_swiglu_is_that_of_the_formula(width, dtype, tolerance):
    x, _, z = problem(width, "silu", dtype, gaps=True)
    assert_same(swiglu, lambda g, v: opened(g, "silu") * v, [x, z], dtype, tolerance)


@pytest.mark.parametrize(("activation", "gate_first"), KINDS)
def test_registered_as_pytorch_wants_it(activation, gate_first):
    given = problem(6, activation, torch.float64, rows=(2, 2))
    how = {"eps": 1e-2, "groups": 2, "gate_first": gate_first}
    how["activation"] = "silu" if activation == "none" else activation
    assert torch.autograd.gradcheck(lambda x, w, z=None: rms_norm(x, w, z, **how), given)
    kind = KINDS.index((activation, gate_first))
    x, weight, *gate = given
    if kind < 2:
        tensors = (x, weight, gate[0] if gate else None)
        torch.library.opcheck(norm._norm.registered, (*tensors, kind, 2, 1e-2, 1.0))
    if kind == 1:
        assert torch.autograd.gradcheck(swiglu, (x, *gate))
        torch.library.opcheck(_swiglu.registered, (x, *gate))


def test_compiles_whole():
    given = problem(6, "silu", torch.float32)

    def both(x, weight, gate):
        return swiglu(rms_norm(x, weight, gate, offset=1.0), gate)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    got, want = (torch.autograd.grad(f(*given).sum(), given) for f in (compiled, both))
    torch.testing.assert_close(got, want)


def test_sums_do_not_depend_on_the_number_of_threads():
    given = problem(40, "silu", torch.float32, rows=(5, 101))
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(torch.autograd.grad(rms_norm(*given).square().sum(), given))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_half_precision_empty_batches_and_large_numbers():
    x, weight, gate = problem(7, "silu", torch.bfloat16)
    y = rms_norm(x, weight, gate)
    assert y.dtype == swiglu(x, gate).dtype == torch.bfloat16
    exact = rms_norm(x.double(), weight.double(), gate.double())
    torch.testing.assert_close(y, exact.bfloat16())
    assert rms_norm(x[:0], weight, gate[:0]).shape == (0, 7, 7)
    far = torch.tensor([[-200.0, -90.0, 90.0, 200.0]])
    torch.testing.assert_close(swiglu(far, far), torch.nn.functional.silu(far) * far)
    assert torch.equal(rms_norm(0 * far, far[0]), 0 * far)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight": torch.ones(5)}, r"weight: got shape \(5,\), expected \(6,\)"),
        ({"gate": torch.ones(6)}, r"gate: got shape \(6,\), expected \(2, 6\)"),
        ({"groups": 4}, "groups: got 4, expected a divisor of the width 6"),
        ({"activation": "gelu"}, "activation: got gelu"),
        ({"activation": "sigmoid", "gate_first": True}, "gate_first=True; expected silu"),
    ],
)
def test_what_cannot_be_meant_is_told(change, told):
    given = {"x": torch.ones(2, 6), "weight": torch.ones(6), "gate": torch.ones(2, 6)} | change
    with pytest.raises(InputError, match=told):
        rms_norm(**given)
    with pytest.raises(InputError, match="gate, value: got shapes"):
        swiglu(torch.ones(2, 6), torch.ones(6))
