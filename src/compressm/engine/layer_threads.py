"""The layers of a model at the same time, each with linear algebra on one thread.

Factorisations of a few hundred states gain little from a second thread of their own, and lose much
when another process wants it: their threads wait for each other thousands of times. Whole layers
on threads of their own share nothing and wait once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from compressm.runtime.steady import steady

T = TypeVar("T")
R = TypeVar("R")


def map_layers(work: Callable[[T], R], layers: Sequence[T]) -> list[R]:
    """[work(layer) for layer in layers], on as many threads as torch has been given.

    A single layer is worked on with all of torch's threads, here. The first error is raised, when
    all have ended.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(layers))
    if workers < 2:
        return [work(layer) for layer in layers]
    learns = torch.is_grad_enabled()

    def run(layer: T) -> R:
        # Most settings belong to a thread, and a new one has the defaults.
        with steady(), torch.set_grad_enabled(learns):
            return work(layer)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(run, layers))
    finally:
        torch.set_num_threads(threads)
