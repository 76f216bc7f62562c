"""Calls timed in turn, and how fast the machine is.

For a call whose time stands alone `torch.utils.benchmark.Timer` decides how often to repeat it;
where times are compared, the calls take turns here, which a `Timer` does not do.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from compressm.ops import linear

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


def products_gflops() -> dict[str, int]:
    """GFLOP/s that float32 matrix products reach here, by our `linear` and by PyTorch's own."""
    x, weight = torch.randn(2048, 512, device="cpu"), torch.randn(768, 512, device="cpu")
    best = interleaved([lambda: linear(x, weight), lambda: torch.mm(x, weight.t())], rounds=10)
    fast, plain = (2e-6 * 2048 * 512 * 768 / milliseconds for milliseconds, _ in best)
    return {"compressm.ops.linear": round(fast), "torch.mm": round(plain)}
