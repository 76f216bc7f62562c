"""The selective scan against its float64 reference, kernel and fallback."""

import time

import pytest
import torch

from compressm.errors import InputError
from compressm.ops import _scan_op, build, selective_scan
from compressm.ops._scan_op import scan
from compressm.ops.reference import selective_scan_reference
from tests.ops.selective import assert_close, exact, outcome, scan_problem

SIZES = [(2, 5, 1, 1), (1, 16, 17, 3), (2, 37, 257, 7), (1, 33, 17, 12), (3, 17, 33, 16)]
SIZES += [(1, 300, 18, 4), (2, 19, 40, 33), (1, 8, 17, 128), (1, 1, 16, 8)]


@pytest.fixture(params=["kernel", "fallback"])
def backend(request, monkeypatch):
    if request.param == "fallback":
        monkeypatch.setattr(_scan_op, "kernels", lambda: None)
    elif build.kernels() is None:
        pytest.fail("no kernel was built: is there a compiler?")
    return request.param


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_the_reference(backend, sizes, dtype):
    arguments = scan_problem(*sizes, dtype=dtype)
    got = outcome(selective_scan, arguments, delta_softplus=True, return_last_state=True)
    want = outcome(selective_scan_reference, exact(arguments), delta_softplus=True)
    assert_close(got, want, 1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("layout", ["time", "channels", "gaps"])
@pytest.mark.parametrize("groups", [None, 1, 3])
def test_any_layout_and_groups(backend, layout, groups):
    arguments = scan_problem(2, 51, 35, 6, groups=groups, layout=layout)
    got = outcome(selective_scan, arguments, delta_softplus=True, return_last_state=True)
    want = outcome(selective_scan_reference, exact(arguments), delta_softplus=True)
    assert_close(got, want, 1e-12)


@pytest.mark.parametrize("missing", ["D", "z", "delta_bias", "initial_state"])
def test_options_can_be_left_out(backend, missing):
    arguments = scan_problem(2, 20, 19, 5)
    arguments["delta"] = arguments["delta"].detach().abs().requires_grad_()
    del arguments[missing]
    got = outcome(selective_scan, arguments, return_last_state=True)
    assert_close(got, outcome(selective_scan_reference, exact(arguments)), 1e-12)


def test_gradcheck_runs_on_the_kernel(backend):
    arguments = scan_problem(1, 3, 18, 2)
    names = list(arguments)
    assert torch.autograd.gradcheck(
        lambda *x: selective_scan(
            **dict(zip(names, x, strict=True)), delta_softplus=True, return_last_state=True
        ),
        tuple(arguments.values()),
    )


def test_only_the_last_state_is_used(backend):
    arguments = scan_problem(2, 18, 20, 3)
    _, last = selective_scan(**arguments, return_last_state=True)
    _, want = selective_scan_reference(**arguments)
    got = torch.autograd.grad(last.sum(), arguments["B"])
    expected = torch.autograd.grad(want.sum(), arguments["B"])
    torch.testing.assert_close(got, expected)


def test_no_step_leaves_the_state_bit_for_bit(backend):
    arguments = scan_problem(2, 20, 40, 5, dtype=torch.float32)
    del arguments["delta_bias"]
    with torch.no_grad():
        arguments["delta"].abs_()[..., 13:] = 0
        _, last = selective_scan(**arguments, return_last_state=True)
        for name in ("u", "delta", "B", "C", "z"):
            arguments[name] = arguments[name][..., :13]
        _, before = selective_scan(**arguments, return_last_state=True)
    assert torch.equal(last, before)


def test_strong_decay_and_tiny_states_are_neither_nan_nor_slow(backend):
    """Exponents far below what float32 holds, and states that are denormal numbers throughout."""
    arguments = scan_problem(2, 32, 1_000, 4, dtype=torch.float32)
    plain = {name: arguments[name] for name in ("u", "delta", "A", "B", "C")}

    def seconds(decay, amplitude):
        with torch.no_grad():
            plain["u"].fill_(amplitude)
            plain["delta"].fill_(1)
            plain["A"].fill_(decay)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            y = selective_scan(**plain)
            grads = torch.autograd.grad(y.sum(), list(plain.values()))
            times.append(time.perf_counter() - start)
            assert all(x.isfinite().all() for x in (y, *grads))
        return min(times)

    ordinary = seconds(-0.5, 1.0)
    seconds(-1e4, 1.0)
    seconds(-1e30, 1.0)
    if backend == "kernel":
        assert seconds(-0.5, 1e-39) < 5 * ordinary


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(backend, dtype):
    arguments = scan_problem(2, 20, 33, 4, dtype=dtype)
    got, last = selective_scan(**arguments, delta_softplus=True, return_last_state=True)
    want, _ = selective_scan_reference(**exact(arguments), delta_softplus=True)
    assert got.dtype == dtype
    assert last.dtype == torch.float32
    assert (got.double() - want).abs().max() < 0.01 * want.abs().max()
    got.float().sum().backward()
    assert arguments["u"].grad.dtype == dtype


def test_results_do_not_depend_on_the_number_of_threads(backend):
    arguments = scan_problem(1, 130, 40, 5, dtype=torch.float32)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            options = {"delta_softplus": True, "return_last_state": True}
            results.append(outcome(selective_scan, arguments, **options))
    finally:
        torch.set_num_threads(before)
    assert_close(results[0], exact(results[1]), 1e-5)


def test_the_operator_is_registered_as_pytorch_wants_it(backend):
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
    arguments = scan_problem(2, 18, 20, 3, groups=2, layout="channels", dtype=torch.float32)
    inputs = tuple(arguments[name] for name in names)
    torch.library.opcheck(scan, (*inputs, True, True))
    bare = (*inputs[:5], None, None, None, None, False, True)
    torch.library.opcheck(scan, tuple(x.detach() if torch.is_tensor(x) else x for x in bare))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiles_in_one_graph():
    arguments = scan_problem(2, 18, 20, 3, dtype=torch.float32)
    compiled = torch.compile(selective_scan, backend="aot_eager", fullgraph=True)
    options = {"delta_softplus": True, "return_last_state": True}
    got, want = (outcome(f, arguments, **options) for f in (compiled, selective_scan))
    assert_close(got, exact(want), 1e-6)


def test_shapes_that_do_not_fit_are_refused():
    arguments = scan_problem(2, 6, 5, 3)
    with pytest.raises(InputError, match=r"delta: got shape \(2, 6, 4\), expected \(2, 6, 5\)"):
        selective_scan(**{**arguments, "delta": arguments["delta"][..., :4]})
    with pytest.raises(InputError, match="groups dividing 6"):
        selective_scan(**{**arguments, "B": torch.randn(2, 4, 3, 5)})
    with pytest.raises(InputError, match="A: complex"):
        selective_scan(**{**arguments, "A": arguments["A"] + 0j})
    with pytest.raises(InputError, match="length >= 1"):
        selective_scan(**{**arguments, "u": arguments["u"][..., :0]})
