"""Experiments from the command line: what is to be run, how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from compressm.arguments import did_you_mean
from compressm.cli._timing import warn_if_busy
from compressm.errors import ConfigError
from compressm.experiments import Definition, Results, Run, load_definition
from compressm.experiments.runner import Watcher, left_of, run_all
from compressm.experiments.worker import Outcome


def find(folder: Path, name: str) -> Definition:
    """The experiment of this name in a folder, or of this path.

    Raises:
        ConfigError: there is none, or it is unusable.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = names(folder)
        raise ConfigError(
            f"there is no experiment {name!r}{did_you_mean(name, known)}; in {folder} are: "
            f"{', '.join(known) or 'none (run this in a clone of the repository)'}"
        )
    return load_definition(path)


def names(folder: Path) -> list[str]:
    """The experiments that are defined in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def overview(folder: Path, results: Path, console: Console, *, processes: int = 1) -> None:
    """One line for each experiment: how many runs are done and left, for how long, and why.

    The time left comes from runs that are done, those of the same arm where there are some.
    """
    table = Table("experiment", "done", "left", "time left", "question")
    for name in names(folder):
        definition = find(folder, name)
        runs = definition.runs()
        waiting, clock = left_of(runs, Results(results, name), processes=processes)
        left = _left(clock.left(waiting)) if waiting else "–"
        counts = (str(len(runs) - len(waiting)), str(len(waiting)))
        table.add_row(name, *counts, left, definition.question.strip())
    console.print(table)


def reproduce(
    definition: Definition,
    results: Path,
    *,
    seeds: Sequence[int] | None,
    arms: Sequence[str] | None,
    overrides: Sequence[str],
    processes: int,
    console: Console,
) -> int:
    """Make all runs that are not done yet; the number of those that failed."""
    runs = definition.runs(seeds, overrides, arms)
    store = Results(results, definition.name)
    waiting, _ = left_of(runs, store)
    console.print(
        f"{definition.name}: {len(runs)} runs, {len(runs) - len(waiting)} of them done, "
        f"results in {store.folder}"
    )
    if any(run.kind.timed for run in waiting):
        warn_if_busy(console)
    with bars(console, len(waiting)) as watcher:
        made = run_all(waiting, store, processes=processes, watcher=watcher)
    return sum(outcome.error is not None for outcome in made)


@contextmanager
def bars(console: Console, total: int) -> Iterator[Watcher]:
    """Progress of so many runs on the terminal, gone at the end but for a line for each run."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bars(progress, total)


class _Bars:
    """A bar for all runs, one for each that is at work, and a line for each that has ended."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._whole = progress.add_task("all runs", total=total, note=_still(None))
        self._tasks: dict[str, TaskID] = {}

    def started(self, run: Run) -> None:
        """Add a bar."""
        self._tasks[run.name] = self._progress.add_task(run.name, total=None, note="")

    def step(self, run: Run, step: int, steps: int, left: float | None) -> None:
        """Move it."""
        task = self._tasks[run.name]
        self._progress.update(task, total=steps, completed=step, note=f"step {step} of {steps}")
        self._progress.update(self._whole, note=_still(left))

    def ended(self, run: Run, outcome: Outcome, left: float | None) -> None:
        """Take it away, and say what came of the run."""
        self._progress.remove_task(self._tasks.pop(run.name))
        self._progress.advance(self._whole)
        self._progress.update(self._whole, note=_still(left))
        said = "done" if outcome.error is None else f"failed: {outcome.error}"
        self._progress.console.print(
            f"{run.name}: {said}, {outcome.seconds:.0f} s, {outcome.path.name}", markup=False
        )


def _still(seconds: float | None) -> str:
    left = _left(seconds)
    return f"time left {left} yet" if seconds is None else f"{left} left"


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes = round(seconds / 60)
    return f"about {minutes // 60} h {minutes % 60} min"
