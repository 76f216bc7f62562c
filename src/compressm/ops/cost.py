"""Which backend is cheapest: forward and backward seconds estimated from flops, bytes, calls.

Shapes: B batch, L length, H width, N state, T steps per chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressm.errors import InputError
from compressm.ops._diagonal_op import available
from compressm.ops.fft import fft_length
from compressm.ops.scan import chunk_steps

BACKENDS = ("fft", "chunk", "scan", "lanes")
_CHUNKS = (2, 4, 8, 16, 32, 64)
_LANES = 16


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine does in a second, and what a call costs.

    Args:
        device: "cpu", or anything else for an accelerator.
        gemm: flop/s of large matrix products.
        batched: flop/s of many small complex products.
        fft: flop/s of real FFTs, counting 2.5 n log2(n) for each.
        stream: bytes/s of elementwise work.
        call: seconds for launching one operator.
        lanes: flop/s of the kernel for narrow layers, which runs on a CPU only.
    """

    device: str
    gemm: float
    batched: float
    fft: float
    stream: float
    call: float
    lanes: float = math.nan


# Fitted to forward + backward of all backends on 13 sizes on two Zen 5 cores in float32 (median
# error 11 %, at most 14 % slower than the best choice). Only the ratios matter for the choice,
# and these are alike on other CPUs. The accelerator's are nominal figures, not measured.
CPU = Machine(
    device="cpu", gemm=3.4e11, batched=1.3e11, fft=1.7e10, stream=1.5e10, call=9.5e-6, lanes=1e11
)
ACCELERATOR = Machine(device="cuda", gemm=3e13, batched=1.5e13, fft=2e12, stream=1e12, call=1e-5)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A backend, its steps per chunk (1 unless "chunk"), estimated forward + backward seconds."""

    backend: str
    chunk: int
    seconds: float


def _scan_seconds(m: Machine, batch: int, steps: int, states: int) -> float:
    """A scan each way, and the products with which the gradient of λ is summed."""
    chunk = chunk_steps(batch, steps, states, m.device)
    passes = 2 if chunk < steps else 1
    calls = 2 * (chunk + 2 * (steps // chunk))
    return (48 * passes + 48) * batch * steps * states / m.stream + calls * m.call


def _fft(m: Machine, batch: int, length: int, width: int, states: int) -> Plan:
    n = fft_length(2 * length - 1)
    kernel = 12 * states * width**2 * length / m.gemm
    transforms = 2.5 * n * math.log2(n) * (4 * batch * width + 2 * width**2) / m.fft
    products = 12 * n * width**2 * batch / m.batched
    moved = 64 * n * (batch * width + width**2) / m.stream
    seconds = kernel + transforms + products + moved + 120 * m.call
    return Plan(backend="fft", chunk=1, seconds=seconds)


def _chunk(m: Machine, batch: int, length: int, width: int, states: int, chunk: int) -> Plan:
    steps = -(-length // chunk)
    inputs = batch * steps * chunk * width
    products = inputs * (24 * states + 6 * chunk * width) / m.gemm
    tables = 128 * chunk * width * (states + chunk * width) / m.stream
    seconds = products + tables + 80 * inputs / m.stream + 180 * m.call
    seconds += _scan_seconds(m, batch, steps, states)
    return Plan(backend="chunk", chunk=chunk, seconds=seconds)


def _scan(m: Machine, batch: int, length: int, width: int, states: int) -> Plan:
    inputs = batch * length * width
    seconds = 24 * inputs * states / m.gemm + 24 * inputs / m.stream + 60 * m.call
    seconds += _scan_seconds(m, batch, length, states)
    return Plan(backend="scan", chunk=1, seconds=seconds)


def _lanes(m: Machine, batch: int, length: int, width: int, states: int) -> Plan:
    blocks = -(-states // _LANES)
    work = batch * length * (blocks * (14 * width + 16) + 4 * width)
    return Plan(backend="lanes", chunk=1, seconds=2 * _LANES * work / m.lanes + 40 * m.call)


def _by_seconds(plan: Plan) -> float:
    return plan.seconds


def plans(
    batch: int, length: int, width: int, states: int, *, device: str = "cpu"
) -> tuple[Plan, ...]:
    """The best plan of every backend for inputs (batch, length, width), cheapest first.

    The kernel of "lanes" is among them where it runs: on a CPU with a C++ compiler.
    """
    m = CPU if device == "cpu" else ACCELERATOR
    sizes = (batch, length, width, states)
    lengths = [t for t in _CHUNKS if t <= max(length, _CHUNKS[0])]
    chunked = sorted((_chunk(m, *sizes, t) for t in lengths), key=_by_seconds)
    found = [_fft(m, *sizes), chunked[0], _scan(m, *sizes)]
    if device == "cpu" and available():
        found.append(_lanes(m, *sizes))
    return tuple(sorted(found, key=_by_seconds))


def choose(
    batch: int,
    length: int,
    width: int,
    states: int,
    *,
    backend: str = "auto",
    device: str = "cpu",
) -> Plan:
    """The plan to run: the cheapest, or the best one of the backend that was asked for.

    Raises:
        InputError: "lanes" was asked for, and there is no CPU or no C++ compiler.
    """
    ranked = plans(batch, length, width, states, device=device)
    for plan in ranked:
        if backend in ("auto", plan.backend):
            return plan
    known = ", ".join(plan.backend for plan in ranked)
    raise InputError(f"backend={backend!r} does not run on {device} here; use auto, {known}")
