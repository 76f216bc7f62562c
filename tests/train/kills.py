"""Runs in processes of their own that are killed at a chosen moment, without any notice."""

import contextlib
import itertools
import multiprocessing as mp
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import compressm
from compressm.data import DataConfig, load
from compressm.train import load_recipe
from compressm.train.run import resume, train

# Where a death could do harm: cuts, and everything that writes.
_CAREFUL = {
    "commit.py",
    "cut.py",
    "events.py",
    "files.py",
    "folder.py",
    "logger.py",
    "model_files.py",
    "rollback.py",
    "successor.py",
    "snapshot.py",
    "shallow_snapshot.py",
    "guarded_cut.py",
    "state_trees.py",
    "tensors.py",
    "trial.py",
}
_PACKAGE = str(Path(compressm.__file__).parent)
assert {path.name for path in Path(_PACKAGE).rglob("*.py")} >= _CAREFUL


@dataclass(frozen=True)
class Fate:
    """When to die: after so many seconds, or at the n-th call or return in careful code."""

    seconds: float | None = None
    call: int | None = None


@dataclass(frozen=True)
class Lived:
    """A run that came to its end."""

    seconds: float
    calls: int


class Runs:
    """Starts runs quickly, as forks of a process that has imported everything."""

    def __init__(self, overrides):
        self._overrides = overrides
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])

    def go_on(self, folder, fate):
        """Train into the folder, or continue there; None when that was killed."""
        mine, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(folder, self._overrides, fate, theirs))
        process.start()
        theirs.close()
        if fate.seconds is not None:
            # The clock begins with the run, not with the process.
            with contextlib.suppress(EOFError):
                mine.recv()
            process.join(fate.seconds)
            process.kill()
        lived = None
        with contextlib.suppress(EOFError):
            while not isinstance(lived, Lived):
                lived = mine.recv()
        process.join()
        if isinstance(lived, Lived):
            return lived
        assert process.exitcode == -signal.SIGKILL, f"the run failed by itself: {process.exitcode}"
        return None


def _work(folder, overrides, fate, pipe):
    torch.set_num_threads(1)
    config = load_recipe("digits-lru", overrides)
    count = itertools.count(1)
    calls = 0

    def profile(frame, event, argument):
        nonlocal calls
        code = frame.f_code.co_filename
        if code.startswith(_PACKAGE) and os.path.basename(code) in _CAREFUL:
            calls = next(count)
            if calls == fate.call:
                os.kill(os.getpid(), signal.SIGKILL)

    pipe.send("begun")
    began = time.perf_counter()
    if fate.seconds is None:
        sys.setprofile(profile)
    if (folder / "config.yaml").exists():
        resume(folder)
    else:
        train(config, folder)
    sys.setprofile(None)
    pipe.send(Lived(time.perf_counter() - began, calls))


# Read from the files of scikit-learn once, not in every run.
load(DataConfig(name="digits"))
