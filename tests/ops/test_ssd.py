"""Mamba-2's recurrence, its streaming step, and the kernels of others."""

import sys
import types

import pytest
import torch

from compressm.errors import InputError
from compressm.ops import gpu, selective_scan, selective_state_update, ssd
from compressm.ops.reference import selective_scan_reference, ssd_reference
from tests.ops.selective import assert_close, exact, outcome, scan_problem, ssd_problem

SIZES = [(2, 1, 3, 5, 1, 1), (1, 17, 4, 3, 2, 3), (2, 130, 6, 8, 3, 12), (1, 257, 2, 4, 1, 33)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_the_reference(sizes, dtype):
    arguments = ssd_problem(*sizes, dtype=dtype)
    got = outcome(ssd, arguments, dt_softplus=True, return_final_states=True)
    want = outcome(ssd_reference, exact(arguments), dt_softplus=True)
    assert_close(got, want, 1e-12 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 100])
def test_the_chunk_does_not_change_the_result(chunk_size):
    arguments = ssd_problem(2, 50, 4, 3, 2, 5)
    got = outcome(ssd, arguments, chunk_size=chunk_size, dt_softplus=True, return_final_states=True)
    assert_close(got, outcome(ssd_reference, exact(arguments), dt_softplus=True), 1e-12)


def test_step_limits_and_a_gain_per_channel():
    arguments = ssd_problem(2, 20, 4, 3, 2, 5)
    arguments["D"] = torch.randn(4, 3, dtype=torch.float64)
    limited = {**arguments, "dt": (arguments["dt"] + arguments["dt_bias"]).clamp(0.1, 0.7)}
    del limited["dt_bias"]
    got = ssd(**arguments, dt_limit=(0.1, 0.7))
    torch.testing.assert_close(got, ssd_reference(**limited)[0])


def test_strong_decay_is_not_nan():
    arguments = ssd_problem(1, 200, 2, 3, 1, 4, dtype=torch.float32)
    with torch.no_grad():
        arguments["A"].fill_(-1e5)
    got = outcome(ssd, arguments, dt_softplus=True, return_final_states=True)
    assert all(x.isfinite().all() for x in got.values())


def test_half_precision_keeps_its_type():
    arguments = ssd_problem(1, 20, 2, 3, 1, 4, dtype=torch.bfloat16)
    y = ssd(**arguments, dt_softplus=True)
    want, _ = ssd_reference(**exact(arguments), dt_softplus=True)
    assert y.dtype == torch.bfloat16
    assert (y.double() - want).abs().max() < 0.02 * want.abs().max()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiles_in_one_graph():
    arguments = ssd_problem(2, 40, 4, 3, 2, 5, dtype=torch.float32)
    compiled = torch.compile(ssd, backend="aot_eager", fullgraph=True)
    options = {"dt_softplus": True, "return_final_states": True}
    got, want = (outcome(f, arguments, **options) for f in (compiled, ssd))
    assert_close(got, exact(want), 1e-6)


def test_steps_of_mamba1_are_the_scan():
    arguments = {k: v.detach() for k, v in scan_problem(2, 6, 9, 4).items()}
    state = arguments.pop("initial_state").clone()
    want, last = selective_scan_reference(**arguments, initial_state=state, delta_softplus=True)
    series = [arguments[name].unbind(2) for name in ("u", "delta", "B", "C", "z")]
    steps = [
        selective_state_update(
            state, u, delta, arguments["A"], B, C, arguments["D"], z, arguments["delta_bias"], True
        )
        for u, delta, B, C, z in zip(*series, strict=True)
    ]
    torch.testing.assert_close(torch.stack(steps, 2), want)
    torch.testing.assert_close(state, last)


def test_steps_of_mamba2_are_the_chunks():
    arguments = {k: v.detach() for k, v in ssd_problem(2, 9, 4, 3, 2, 5).items()}
    state = arguments["initial_states"].clone()
    want, last = ssd(**arguments, dt_softplus=True, return_final_states=True)
    wide = [arguments[name][:, None].expand(4, 3) for name in ("D", "dt_bias")]
    A = arguments["A"][:, None, None]
    series = [arguments[name].unbind(1) for name in ("x", "dt", "B", "C", "z")]
    steps = [
        selective_state_update(
            state, x, dt[..., None].expand_as(x), A, B, C, wide[0], z, wide[1], True
        )
        for x, dt, B, C, z in zip(*series, strict=True)
    ]
    torch.testing.assert_close(torch.stack(steps, 1), want)
    torch.testing.assert_close(state, last)


def test_on_a_gpu_the_kernels_of_mamba_ssm_are_called(monkeypatch):
    """A stand-in for the package; the device is pretended, since the tests have no GPU."""
    calls = []

    def stand_in(path, name):
        module = types.ModuleType(path)
        setattr(module, name, lambda *args, **options: calls.append((name, options)) or args[0])
        monkeypatch.setitem(sys.modules, path, module)

    for path, name in (gpu._SCAN, gpu._CHUNK_SCAN, gpu._UPDATE):
        parts = path.split(".")
        for depth in range(1, len(parts)):
            parent = ".".join(parts[:depth])
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        stand_in(path, name)
    cuda, find = torch.device("cuda"), gpu._find
    monkeypatch.setattr(gpu, "_find", lambda _, where: find(cuda, where))

    selective_scan(**scan_problem(1, 4, 5, 2))
    assert not calls  # float64, which the package does not have
    problem = scan_problem(1, 4, 5, 2, dtype=torch.float32)
    start = problem.pop("initial_state")
    assert selective_scan(**problem, return_last_state=True) is problem["u"]
    assert calls.pop() == (
        "selective_scan_fn",
        {"delta_softplus": False, "return_last_state": True},
    )
    selective_scan(**problem, initial_state=start)
    assert not calls
    heads = ssd_problem(1, 5, 2, 3, 1, 4, dtype=torch.float32)
    assert ssd(**heads, dt_softplus=True) is heads["x"]
    name, options = calls.pop()
    assert name == "mamba_chunk_scan_combined"
    assert options["dt_softplus"]
    state, x = torch.zeros(1, 4, 2), torch.zeros(1, 4)
    row = torch.zeros(1, 2)
    assert selective_state_update(state, x, x, torch.zeros(4, 2), row, row) is state
    assert calls.pop()[0] == "selective_state_update"


def test_without_mamba_ssm_or_a_gpu_ours_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    assert gpu.selective_scan(torch.device("cuda")) is None
    assert gpu.chunk_scan(torch.device("cpu")) is None


def test_shapes_that_do_not_fit_are_refused():
    arguments = ssd_problem(2, 5, 4, 3, 2, 5)
    with pytest.raises(InputError, match=r"A: got shape \(3,\), expected \(4,\)"):
        ssd(**{**arguments, "A": arguments["A"][:3]})
    with pytest.raises(InputError, match="groups dividing 4"):
        ssd(**{**arguments, "B": torch.randn(2, 5, 3, 5)})
    with pytest.raises(InputError, match="chunk_size: got 0"):
        ssd(**arguments, chunk_size=0)
    with pytest.raises(InputError, match="with heads"):
        selective_state_update(torch.zeros(1, 2, 3), *(torch.zeros(1, 3),) * 5)
