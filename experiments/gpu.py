"""What a machine with a CUDA device can tell: `make gpu`.

    PYTHONPATH=src:. python experiments/gpu.py

The tests of `tests/accelerator` and the conformance suite on the real device, our operators beside
`mamba_ssm`, `causal_conv1d` and `fla` where these are installed, and timings. Results go to
experiments/results/gpu.json. PyTorch, NumPy and safetensors are enough; without pytest the tests
are left out. Without a device it says so and ends with 0; a failed test or comparison ends with 1.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from compressm import FixedFraction, compress_, ops
from compressm.nn import SequenceClassifier
from compressm.ops import gpu
from compressm.runtime.accelerators import synchronize

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results" / "gpu.json"
SUITES = ("tests/accelerator", "tests/families/test_conformance.py")
# Largest difference from the other implementation, relative to its largest value.
TOLERANCE = 5e-3
Arguments = Mapping[str, Tensor]
NOT_INSTALLED = "not installed"


def normal(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device)


def scan_arguments(device: torch.device) -> dict[str, Tensor]:
    batch, channels, length, states = 2, 64, 128, 16
    return {
        "u": normal(device, batch, channels, length),
        "delta": normal(device, batch, channels, length),
        "A": -torch.rand(channels, states, device=device) * 3,
        "B": normal(device, batch, states, length),
        "C": normal(device, batch, states, length),
        "D": normal(device, channels),
        "z": normal(device, batch, channels, length),
        "delta_bias": normal(device, channels),
    }


def ssd_arguments(device: torch.device) -> dict[str, Tensor]:
    batch, length, heads, width, groups, states = 2, 128, 4, 32, 1, 32
    return {
        "x": normal(device, batch, length, heads, width),
        "dt": normal(device, batch, length, heads),
        "A": -torch.rand(heads, device=device) * 3,
        "B": normal(device, batch, length, groups, states),
        "C": normal(device, batch, length, groups, states),
        "D": normal(device, heads),
        "dt_bias": normal(device, heads),
    }


def conv_arguments(device: torch.device) -> dict[str, Tensor]:
    return {
        "x": normal(device, 2, 64, 128),
        "weight": normal(device, 64, 4),
        "bias": normal(device, 64),
    }


def attention_arguments(device: torch.device) -> dict[str, Tensor]:
    shape = (2, 128, 4, 32)
    unit = nn.functional.normalize
    return {
        "q": normal(device, *shape),
        "k": unit(normal(device, *shape), dim=-1),
        "v": normal(device, *shape),
        "beta": torch.rand(shape[:3], device=device),
        "g": -torch.rand(shape[:3], device=device),
    }


def linear_attention_arguments(device: torch.device) -> dict[str, Tensor]:
    given = attention_arguments(device)
    given.pop("beta")
    return given | {"g": -torch.rand(given["k"].shape, device=device)}


def our_scan(**a: Tensor) -> Any:
    return ops.selective_scan(**a, delta_softplus=True)


def our_ssd(**a: Tensor) -> Any:
    return ops.ssd(**a, dt_softplus=True)


def our_delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor) -> Tensor:
    return ops.gated_delta_rule(q, k, v, beta, g)[0]


def our_linear_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return ops.gated_linear_attention(q, k, v, g)[0]


# Where the other implementation is, how it is called, our own, and the arguments of both.
PAIRS: dict[str, tuple[tuple[str, str], Callable[..., Any], Callable[..., Any], Any]] = {
    "selective_scan": (
        gpu._SCAN,
        lambda f, **a: f(**a, delta_softplus=True),
        our_scan,
        scan_arguments,
    ),
    "ssd": (
        gpu._CHUNK_SCAN,
        lambda f, **a: f(**a, chunk_size=64, dt_softplus=True),
        our_ssd,
        ssd_arguments,
    ),
    "causal_conv1d": (
        gpu._CONV,
        lambda f, **a: f(**a, activation="silu"),
        lambda **a: ops.causal_conv1d(**a, silu=True),
        conv_arguments,
    ),
    "gated_delta_rule": (
        ("fla.ops.gated_delta_rule", "chunk_gated_delta_rule"),
        lambda f, **a: f(**a, scale=1.0)[0],
        our_delta_rule,
        attention_arguments,
    ),
    "gated_linear_attention": (
        ("fla.ops.gla", "chunk_gla"),
        lambda f, **a: f(**a, scale=1.0)[0],
        our_linear_attention,
        linear_attention_arguments,
    ),
}


def outcome(function: Callable[..., Any], arguments: Arguments) -> dict[str, Tensor]:
    """Output and gradients of a fixed functional of it, by name."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in arguments.items()}
    y = function(**leaves)
    weight = torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape)
    gradients = torch.autograd.grad((y.float() * weight).sum(), list(leaves.values()))
    return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}


def distance(got: Arguments, want: Arguments) -> float:
    """The largest relative difference over outputs and gradients."""
    return max(
        float((got[name] - value).abs().max() / value.abs().max().clamp_min(1e-30))
        for name, value in want.items()
    )


def alone() -> Any:
    """Our own operators, also where a package would be called."""
    return patch.object(gpu, "_find", lambda device, where: None)


def compared(device: torch.device) -> dict[str, Any]:
    """For each operator the relative difference from the package's, or why there is none."""
    found: dict[str, Any] = {}
    for name, ((module, attribute), call, ours, make) in PAIRS.items():
        try:
            theirs = getattr(importlib.import_module(module), attribute)
        except ImportError:
            found[name] = NOT_INSTALLED
            continue
        torch.manual_seed(0)
        arguments = make(device)
        with alone():
            want = outcome(ours, arguments)
        got = outcome(lambda call=call, theirs=theirs, **a: call(theirs, **a), arguments)
        found[name] = distance(got, want)
    return found


def milliseconds(step: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median of several calls after two that do not count, each until the device is idle."""
    times = []
    for count in range(rounds + 2):
        synchronize([device])
        started = time.perf_counter()
        step()
        synchronize([device])
        if count > 1:
            times.append(1e3 * (time.perf_counter() - started))
    return round(statistics.median(times), 4)


def timed_operators(device: torch.device, rounds: int) -> dict[str, Any]:
    """Forward and backward of each operator: ours alone, and as it is dispatched here."""
    rows = {}
    for name, (_, _, ours, make) in PAIRS.items():
        arguments = make(device)

        def both(ours: Any = ours, arguments: Any = arguments) -> object:
            return outcome(ours, arguments)

        with alone():
            plain = milliseconds(both, device, rounds)
        rows[name] = {"ours": plain, "dispatched": milliseconds(both, device, rounds)}
    return rows


def timed_steps(device: torch.device, rounds: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """A training step of a small LRU model before and after a cut to an eighth."""
    torch.manual_seed(0)
    model = SequenceClassifier(
        input="real",
        features=1,
        width=sizes["width"],
        state_dim=sizes["states"],
        depth=2,
        classes=4,
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(sizes["batch"], sizes["length"], 1, device=device)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    before = milliseconds(step, device, rounds)
    started = time.perf_counter()
    compress_(model, optimizer, policy=FixedFraction(1 / 8), data=[batch[:2]])
    seconds = round(time.perf_counter() - started, 3)
    after = milliseconds(step, device, rounds)
    return {**sizes, "before": before, "after": after, "cut_seconds": seconds}


def tests(device: str) -> dict[str, Any]:
    """The exit code and the last line of pytest; None where it is not installed."""
    if importlib.util.find_spec("pytest") is None:
        return {"code": None, "summary": f"pytest is {NOT_INSTALLED}; the tests were left out"}
    # The settings of pyproject.toml expect plugins that may not be here.
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts="]
    options += ["-W", "ignore::pytest.PytestConfigWarning"]
    command = [sys.executable, "-m", "pytest", *options, *SUITES]
    environment = {**os.environ, "COMPRESSM_TEST_DEVICE": device}
    run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(run.stdout)
    return {"code": run.returncode, "summary": run.stdout.strip().splitlines()[-1]}


def facts(device: torch.device) -> dict[str, Any]:
    """Machine, versions, and which commit was measured."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device": name,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": git.stdout.strip() or None,
    }


def run(device: torch.device, rounds: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Everything but the tests."""
    return {
        "machine": facts(device),
        "parity": compared(device),
        "tolerance": TOLERANCE,
        "operators_ms": timed_operators(device, rounds),
        "step_ms": timed_steps(device, rounds, sizes),
    }


def failed(result: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, in words."""
    wrong = [
        f"{name} differs by {value:.1e}"
        for name, value in result["parity"].items()
        if value != NOT_INSTALLED and not value <= TOLERANCE
    ]
    if result["tests"]["code"]:
        wrong.append(f"tests: {result['tests']['summary']}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"make gpu: PyTorch {torch.__version__} sees no CUDA device here; nothing was run")
        return 0
    sizes = {"batch": 32, "length": 1024, "width": 128, "states": 256}
    result = run(torch.device("cuda"), options.rounds, sizes)
    skipped = {"code": None, "summary": "left out"}
    result["tests"] = skipped if options.no_tests else tests("cuda")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    print(options.json)
    for line in failed(result):
        print(f"make gpu: {line}", file=sys.stderr)
    return int(bool(failed(result)))


if __name__ == "__main__":
    sys.exit(main())
