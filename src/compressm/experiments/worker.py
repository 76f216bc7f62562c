"""One run in a process of its own."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressm.errors import CompressmError
from compressm.experiments.definition import Run
from compressm.experiments.kinds import Workplace
from compressm.experiments.store import Results
from compressm.train.energy import counted
from compressm.train.provenance import provenance

Say = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a run: its file, and in one line why it failed, if it did."""

    path: Path
    seconds: float
    error: str | None = None


def execute(run: Run, results: Results, work: Path, say: Say = lambda step, steps: None) -> Outcome:
    """Make a run and store what comes of it; a failure is stored too, with its traceback.

    Args:
        run: which one.
        results: where the file goes.
        work: where runs leave what they go on from, and trunks.
        say: told of validated steps.
    """
    torch.set_num_threads(run.threads)
    facts = provenance()
    energy: dict[str, Any] = {}
    own = work / run.fingerprint
    shared = work / f"trunk-{run.trunk_fingerprint}"
    place = Workplace(config=run.config, own=own, shared=shared, say=say)
    own.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    try:
        with counted(energy):
            began = time.perf_counter()
            figures = plain(run.kind.run(place))
    except Exception as error:  # noqa: BLE001 - stored; the other runs of some hours go on
        known = isinstance(error, CompressmError)
        text = f"{type(error).__name__}: {error}"
        trace = None if known else traceback.format_exc()
        seconds = time.perf_counter() - began
        path = results.write(run, "failed", facts, seconds=seconds, error=text, traceback=trace)
        return Outcome(path, seconds, text)
    seconds = time.perf_counter() - began
    said: dict[str, Any] = {"energy": energy} if energy else {}
    earlier = place.commits - {facts["commit"]}
    if earlier:
        said["earlier_commits"] = sorted(earlier)
    path = results.write(run, "done", facts, seconds=seconds, **said, figures=figures)
    shutil.rmtree(own)
    return Outcome(path, seconds)


def plain(value: Any) -> Any:
    """Figures as JSON can hold them: None for what is no finite number."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
