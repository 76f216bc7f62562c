"""All runs of an experiment: what is done is skipped, the rest goes to some processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Empty
from threading import Thread
from typing import Any, Protocol

from compressm.experiments.definition import Run
from compressm.experiments.store import Results
from compressm.experiments.worker import Outcome, execute

# Another number where what runs leave there changes: trunks of an older version are not read.
WORK = Path("runs") / "experiments" / "3"


class Watcher(Protocol):
    """Somebody who looks on."""

    def started(self, run: Run) -> None:
        """A run begins."""

    def step(self, run: Run, step: int, steps: int, left: float | None) -> None:
        """It has come so far; `left` seconds of all runs, where that can be said."""

    def ended(self, run: Run, outcome: Outcome, left: float | None) -> None:
        """It is stored."""


@dataclass
class Clock:
    """How long it still takes, from what runs of the same arm took."""

    processes: int
    known: dict[str, list[float]] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)

    def learn(self, arm: str, seconds: float) -> None:
        """A run of this arm took so long."""
        self.known.setdefault(arm, []).append(seconds)

    def left(self, runs: Sequence[Run]) -> float | None:
        """Seconds for runs that are not stored yet; None before anything is known."""
        every = [seconds for found in self.known.values() for seconds in found]
        total = 0.0
        for run in runs:
            took = self.known.get(run.arm) or every
            begun, share = self.began.get(run.name), self.share.get(run.name, 0.0)
            gone = 0.0 if begun is None else time.monotonic() - begun
            if share > 0:
                total += gone * (1 - share) / share
            elif took:
                total += max(sum(took) / len(took) - gone, 0.0)
            else:
                return None
        return total / min(self.processes, max(len(runs), 1))


def left_of(
    runs: Sequence[Run], results: Results, *, processes: int = 1
) -> tuple[list[Run], Clock]:
    """The runs that have no result yet, and a clock that knows how long the others took."""
    clock, waiting = Clock(processes), []
    for run in runs:
        found = results.finished(run)
        if found is None:
            waiting.append(run)
        elif found.get("seconds") is not None:  # a migrated result does not know
            clock.learn(run.arm, float(found["seconds"]))
    return waiting, clock


def run_all(
    runs: Sequence[Run],
    results: Results,
    *,
    processes: int = 1,
    work: Path = WORK,
    watcher: Watcher | None = None,
) -> list[Outcome]:
    """Make the runs that have no result yet.

    Runs whose figures are times are made last, one at a time, with nothing beside them. A run that
    fails is stored as failed, and tried again at the next call.

    Args:
        runs: of one experiment, see `Definition.runs`.
        results: where they are stored.
        processes: how many at once.
        work: where runs leave what they go on from after a kill.
        watcher: told of the progress.

    Returns:
        What came of the runs that were made.
    """
    open_runs, clock = left_of(runs, results, processes=processes)
    beside = [run for run in open_runs if not run.kind.timed]
    alone = [run for run in open_runs if run.kind.timed]
    made = []
    for group, at_once in ((beside, processes), (alone, 1)):
        if group:
            made += _together(group, results, at_once, work, watcher, clock)
    return made


def _together(
    runs: Sequence[Run],
    results: Results,
    processes: int,
    work: Path,
    watcher: Watcher | None,
    clock: Clock,
) -> list[Outcome]:
    context = get_context("spawn")  # torch's threads do not survive a fork
    waiting, made = list(runs), []
    active: dict[Future[Outcome], Run] = {}
    server = SyncManager(ctx=context)
    server.start(initializer=_end_with_parent)
    with (
        server as manager,
        ProcessPoolExecutor(
            min(processes, len(runs)), mp_context=context, initializer=_end_with_parent
        ) as pool,
    ):
        told = manager.Queue()
        try:
            while waiting or active:
                while waiting and len(active) < processes:
                    run = waiting.pop(0)
                    active[pool.submit(_tell, run, results, work, told)] = run
                    clock.began[run.name] = time.monotonic()
                    if watcher:
                        watcher.started(run)
                done, _ = wait(active, timeout=1.0, return_when=FIRST_COMPLETED)
                by_name = {run.name: run for run in active.values()}
                for name, step, steps in _drained(told):
                    clock.share[name] = step / steps
                    if watcher and name in by_name:
                        left = clock.left([*active.values(), *waiting])
                        watcher.step(by_name[name], step, steps, left)
                for future in done:
                    run = active.pop(future)
                    outcome = future.result()
                    if outcome.error is None:
                        clock.learn(run.arm, outcome.seconds)
                    made.append(outcome)
                    if watcher:
                        watcher.ended(run, outcome, clock.left([*active.values(), *waiting]))
        except BaseException:
            # What they have done so far is on the disk; the next call goes on from there.
            for process in active_children():
                process.terminate()
            raise
    return made


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, whatever killed that.

    Else a run would go on unseen, beside the same run of the next call, on the same files.
    """

    def wait_and_end() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    Thread(target=wait_and_end, daemon=True).start()


def _tell(run: Run, results: Results, work: Path, told: Any) -> Outcome:
    return execute(run, results, work, lambda step, steps: told.put((run.name, step, steps)))


def _drained(told: Any) -> list[tuple[str, int, int]]:
    found = []
    while True:
        try:
            found.append(told.get_nowait())
        except Empty:
            return found
