"""Results from the command line, made a second time and laid beside what is stored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from compressm.cli import _text
from compressm.cli._reproduce import bars
from compressm.experiments.again import Difference, compared, run_of
from compressm.experiments.runner import run_all
from compressm.experiments.store import Results, read_result

SHOWN = 12


def rerun(paths: Sequence[Path], *, processes: int, console: Console) -> int:
    """Make stored runs again and say which figures differ; the number of those that failed.

    Nothing that an earlier run left behind is used, trunks included, and no file is changed.
    """
    runs = {path: run_of(path) for path in paths}  # all are read before the first is made
    with TemporaryDirectory(prefix="compressm-rerun-") as name:
        folder = Path(name)
        store = Results(folder, "results")
        with bars(console, len(runs)) as watcher:
            made = run_all(
                list(runs.values()),
                store,
                processes=processes,
                work=folder / "work",
                watcher=watcher,
            )
        for path, run in runs.items():
            again = store.finished(run)
            if again is not None:
                _say(path, read_result(path), again, console)
    return sum(outcome.error is not None for outcome in made)


def _say(path: Path, stored: dict[str, Any], again: dict[str, Any], console: Console) -> None:
    found = compared(stored["figures"], again["figures"])
    count = len(found.other)
    title = f"{path.name}: {found.same} figures the same to the last bit, {count} not"
    table = _text.table("figure", "stored", "now", "difference")
    # What a page would quote first, then those that are furthest off.
    ordered = sorted(found.other, key=lambda one: (not one.name.startswith("chosen"), -_off(one)))
    for entry in ordered[:SHOWN]:
        table.add_row(entry.name, _plain(entry.stored), _plain(entry.again), _difference(entry))
    more = f"{count - SHOWN} more differ. " if count > SHOWN else ""
    alone = f"{len(found.unmatched)} are in one of the two only. " if found.unmatched else ""
    note = (
        f"{more}{alone}Stored: {_made_by(stored)}. Now: {_made_by(again)}. Times are not compared."
    )
    console.print(title, style="bold", markup=False, highlight=False)
    if found.other:
        console.print(table)
    console.print(f"{note}\n", style="dim", markup=False, highlight=False)


def _made_by(result: dict[str, Any]) -> str:
    torch = result.get("versions", {}).get("torch", "an unknown version")
    return f"commit {result.get('commit', 'unknown')}, PyTorch {torch}"


def _off(entry: Difference) -> float:
    pair = (entry.stored, entry.again)
    if not all(isinstance(value, int | float) for value in pair):
        return math.inf
    before, after = map(float, pair)
    return abs(after - before) / max(abs(before), abs(after))


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _difference(entry: Difference) -> str:
    return "–" if math.isinf(_off(entry)) else f"{entry.again - entry.stored:+.3g}"
