"""`experiments/gpu.py` on the device: its comparisons notice what differs, and it measures."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

from compressm import ops
from tests.accelerator.device import DEVICE

_PATH = Path(__file__).parents[2] / "experiments" / "gpu.py"
_SPEC = importlib.util.spec_from_file_location("experiments_gpu", _PATH)
bench = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bench)


def package(monkeypatch, factor):
    """A stand-in for the package `causal_conv1d` that is wrong by a factor."""

    def function(x, weight, bias, activation):
        return factor * ops.causal_conv1d(x, weight, bias, silu=activation == "silu")

    module = types.ModuleType("causal_conv1d")
    module.causal_conv1d_fn = function
    monkeypatch.setitem(sys.modules, "causal_conv1d", module)


@pytest.mark.parametrize(("factor", "fails"), [(1.0, False), (1.1, True)])
def test_another_implementation_is_compared(monkeypatch, factor, fails):
    package(monkeypatch, factor)
    for missing in ("mamba_ssm", "fla"):
        monkeypatch.setitem(sys.modules, missing, None)
    parity = bench.compared(DEVICE)
    assert parity.pop("causal_conv1d") == pytest.approx(factor - 1, abs=1e-6)
    assert set(parity.values()) == {bench.NOT_INSTALLED}
    result = {"parity": bench.compared(DEVICE), "tests": {"code": 0, "summary": ""}}
    assert bool(bench.failed(result)) == fails


def test_failed_tests_and_numbers_that_are_none_are_failures():
    parity = {"ssd": float("nan"), "selective_scan": bench.NOT_INSTALLED}
    wrong = bench.failed({"parity": parity, "tests": {"code": 1, "summary": "2 failed"}})
    assert wrong == ["ssd differs by nan", "tests: 2 failed"]


def test_operators_and_a_step_are_timed(monkeypatch):
    waits, real = [], torch.accelerator.synchronize
    monkeypatch.setattr(
        torch.accelerator, "synchronize", lambda device=None: (waits.append(device), real(device))
    )
    assert bench.milliseconds(lambda: torch.ones(2, device=DEVICE).exp(), DEVICE, 3) > 0
    assert len(waits) == 10
    sizes = {"batch": 2, "length": 16, "width": 4, "states": 16}
    step = bench.timed_steps(DEVICE, 1, sizes)
    assert min(step["before"], step["after"], step["cut_seconds"]) > 0
    assert bench.facts(DEVICE)["torch"] == torch.__version__
