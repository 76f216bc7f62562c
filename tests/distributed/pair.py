"""Two gloo processes that run the same function, started once for all tests of this folder."""

import importlib
import os
import queue
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.aside import set_aside_imports

RANKS = 2
# Long enough for a busy machine; a rank that waits in vain fails its test after this.
PATIENCE = 15
# To start Python and import everything, which nothing else depends on.
START = 200


class Pair:
    """`pair(function, *args)` runs `function(rank, *args)` on both ranks and returns the results.

    Both must end; the first exception of a rank becomes an AssertionError here.
    """

    def __init__(self, folder: Path) -> None:
        context = mp.get_context("spawn")
        self._jobs = [context.SimpleQueue() for _ in range(RANKS)]
        self._results = [context.Queue() for _ in range(RANKS)]
        self._processes = [
            context.Process(
                target=_serve,
                args=(rank, str(folder / "store"), self._jobs[rank], self._results[rank]),
                daemon=True,
            )
            for rank in range(RANKS)
        ]
        for process in self._processes:
            process.start()
        # The clocks of the group and of the jobs begin when both are there.
        for results in self._results:
            assert results.get(timeout=START) == "here"
        for jobs in self._jobs:
            jobs.put("begin")

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        for jobs in self._jobs:
            jobs.put((function, args))
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + 3 * PATIENCE
        while len(answers) < RANKS:
            assert time.monotonic() < deadline, f"only ranks {sorted(answers)} have answered"
            for rank in set(range(RANKS)) - answers.keys():
                with suppress(queue.Empty):
                    answers[rank], error = self._results[rank].get(timeout=0.02)
                    # Not after the other's: it may be waiting for this one.
                    assert error is None, f"rank {rank}:\n{error}"
        return [answers[rank] for rank in range(RANKS)]

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        for jobs in self._jobs:
            jobs.put(None)
        for process in self._processes:
            process.join(timeout=5)
            process.kill()


def _serve(rank: int, store: str, jobs: Any, results: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    importlib.import_module("tests.distributed.loops")  # what all jobs need
    results.put("here")
    jobs.get()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=PATIENCE),
    )
    while (job := jobs.get()) is not None:
        function, args = job
        set_aside_imports()
        torch.manual_seed(0)
        try:
            value = function(rank, *args)
            dist.barrier()
            results.put((value, None))
        except Exception:  # noqa: BLE001 - reported by the other side
            results.put((None, traceback.format_exc()))
    dist.destroy_process_group()
