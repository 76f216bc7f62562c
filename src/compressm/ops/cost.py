"""Which backend is cheapest: an estimate of seconds from flops, bytes and calls.

Shapes: B batch, L length, H width, N state, T steps per chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressm.ops.fft import fft_length
from compressm.ops.scan import chunk_steps

BACKENDS = ("fft", "chunk", "scan")
_CHUNKS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Rates of a machine: matrix flop/s, FFT flop/s, bytes/s of elementwise work, s per call."""

    gemm: float
    batched: float
    fft: float
    stream: float
    call: float


# The CPU rates are those of two Zen 5 cores; only their ratios matter, and these are much alike
# on other CPUs. The accelerator's are nominal.
CPU = Machine(gemm=4.0e11, batched=1.5e11, fft=3.0e10, stream=3.0e10, call=5e-6)
ACCELERATOR = Machine(gemm=3.0e13, batched=1.5e13, fft=2.0e12, stream=1.5e12, call=1e-5)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A backend, its chunk length (1 unless "chunk") and its estimated forward seconds."""

    backend: str
    chunk: int
    seconds: float


def _scan_seconds(m: Machine, batch: int, steps: int, states: int) -> float:
    chunk = chunk_steps(batch, steps, states)
    passes = 2 if chunk < steps else 1
    calls = chunk + 2 * (steps // chunk)
    return passes * 24 * batch * steps * states / m.stream + calls * m.call


def _fft(m: Machine, batch: int, length: int, width: int, states: int) -> Plan:
    n = fft_length(2 * length - 1)
    kernel = 4 * states * width**2 * length / m.gemm
    transforms = 2.5 * n * n.bit_length() * (2 * batch * width + width**2) / m.fft
    products = 4 * n * width**2 * batch / m.batched
    moved = 8 * n * (3 * batch * width + 3 * width**2) / m.stream
    return Plan(
        backend="fft", chunk=1, seconds=kernel + transforms + products + moved + 60 * m.call
    )


def _chunk(m: Machine, batch: int, length: int, width: int, states: int, chunk: int) -> Plan:
    steps = -(-length // chunk)
    rows = batch * steps
    products = rows * chunk * width * (8 * states + 2 * chunk * width) / m.gemm
    tables = 8 * chunk * width * (4 * states + 4 * chunk * width) / m.stream
    moved = 16 * batch * length * width / m.stream
    seconds = products + tables + moved + _scan_seconds(m, batch, steps, states) + 60 * m.call
    return Plan(backend="chunk", chunk=chunk, seconds=seconds)


def _scan(m: Machine, batch: int, length: int, width: int, states: int) -> Plan:
    products = 8 * batch * length * width * states / m.gemm
    seconds = products + _scan_seconds(m, batch, length, states) + 20 * m.call
    return Plan(backend="scan", chunk=1, seconds=seconds)


def _by_seconds(plan: Plan) -> float:
    return plan.seconds


def plans(
    batch: int, length: int, width: int, states: int, *, device: str = "cpu"
) -> tuple[Plan, ...]:
    """The best plan of every backend for inputs (batch, length, width), cheapest first."""
    m = CPU if device == "cpu" else ACCELERATOR
    sizes = (batch, length, width, states)
    lengths = [t for t in _CHUNKS if t <= max(length, _CHUNKS[0])]
    chunked = sorted((_chunk(m, *sizes, t) for t in lengths), key=_by_seconds)
    return tuple(sorted((_fft(m, *sizes), chunked[0], _scan(m, *sizes)), key=_by_seconds))


def choose(
    batch: int,
    length: int,
    width: int,
    states: int,
    *,
    backend: str = "auto",
    device: str = "cpu",
) -> Plan:
    """The plan to run: the cheapest, or the best one of the backend that was asked for."""
    ranked = plans(batch, length, width, states, device=device)
    return next(p for p in ranked if backend in ("auto", p.backend))
