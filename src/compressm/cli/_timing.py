"""What every `compressm bench` does: time calls in turn, and say on which machine."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from compressm.ops import linear
from compressm.storage.files import write_text

Call = Callable[[], object]


def interleaved(
    calls: Sequence[Call], rounds: int, *, warm_up: bool = True
) -> list[tuple[float, float]]:
    """Best and median milliseconds of every call, after one call that does not count.

    One of each per round, so that a machine that slows down in between slows all of them.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls if warm_up else ():
        call()
    gc.disable()
    try:
        for _ in range(rounds):
            for call, record in zip(calls, seconds, strict=True):
                start = time.perf_counter()
                call()
                record.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return [(1e3 * min(record), 1e3 * statistics.median(record)) for record in seconds]


def load() -> float | None:
    """How many processes wanted the processor in the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def warn_if_busy(console: Console) -> None:
    """Say that milliseconds of a busy machine are not to be trusted."""
    busy, cores = load(), os.cpu_count() or 1
    if busy is not None and busy > 0.3 * cores:
        console.print(
            f"[yellow]warning:[/] the machine is busy (load {busy:.1f} on {cores} cores); "
            "trust the ratios more than the milliseconds"
        )


def machine_facts() -> dict[str, Any]:
    """Processor, threads, versions, load, and the GFLOP/s that matrix products reach here."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    x, weight = torch.randn(2048, 512, device="cpu"), torch.randn(768, 512, device="cpu")
    busy = load()
    best = interleaved([lambda: linear(x, weight), lambda: torch.mm(x, weight.t())], rounds=10)
    fast, plain = (2e-6 * 2048 * 512 * 768 / milliseconds for milliseconds, _ in best)
    return {
        "cpu": cpu,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": busy,
        "gflops": {"compressm.ops.linear": round(fast), "torch.mm": round(plain)},
    }


def save(result: dict[str, Any], path: Path | None) -> None:
    """Write the numbers as JSON, if anybody asked for them."""
    if path is not None:
        write_text(path, json.dumps(result, indent=1) + "\n")
