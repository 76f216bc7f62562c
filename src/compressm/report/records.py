"""What a run folder says about its run, read from the files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from compressm.errors import CheckpointError
from compressm.events import Event
from compressm.storage.files import read_text
from compressm.version import unstamped

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The figures of a finished run that comparisons need, from summary.json.

    Attributes:
        steps: optimizer steps of the run.
        states_start, states_end: states of each layer before the first and after the last cut.
        parameters_start, parameters_end: of the whole model.
        best, last: "step", "val/…" and "test/…" of the model that validation chose after the last
            cut, and of the last model.
        wall_seconds: the whole run.
        step_ms_start, step_ms_end: median milliseconds of a training step before and after cuts.
    """

    steps: int
    states_start: dict[str, int]
    states_end: dict[str, int]
    parameters_start: int
    parameters_end: int
    best: dict[str, float]
    last: dict[str, float]
    wall_seconds: float
    step_ms_start: float | None
    step_ms_end: float | None

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The outcome that summary.json describes."""
        raw = unstamped(json.loads(text), "it")
        start, end = raw["start"], raw["end"]
        return cls(
            steps=int(raw["steps"]),
            states_start=_numbers(start["state_dims"], int),
            states_end=_numbers(end["state_dims"], int),
            parameters_start=int(start["parameters"]),
            parameters_end=int(end["parameters"]),
            best=_numbers(raw["best"], float),
            last=_numbers(raw["last"], float),
            wall_seconds=float(raw["wall_seconds"]),
            step_ms_start=raw["step_ms_start"],
            step_ms_end=raw["step_ms_end"],
        )


@dataclass(frozen=True, kw_only=True)
class Staircase:
    """The state dimension of one layer over a run: `states[i]` from step `steps[i]` on."""

    steps: tuple[int, ...]
    states: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run.

    Attributes:
        path: its folder.
        label: what figures and tables call it.
        events: of events.jsonl, in order.
        metrics: the lines of metrics.jsonl, each with its "step".
        outcome: None while the run is not finished.
    """

    path: Path
    label: str
    events: tuple[Event, ...]
    metrics: tuple[dict[str, float], ...]
    outcome: Outcome | None

    @property
    def last_step(self) -> int:
        """The last step that the files know of."""
        steps = [int(line["step"]) for line in self.metrics]
        steps += [event.step or 0 for event in self.events]
        return max([0 if self.outcome is None else self.outcome.steps, *steps])

    @property
    def cuts(self) -> tuple[Event, ...]:
        """The events at which sizes changed (a guard may have undone a "trial" later)."""
        return tuple(event for event in self.events if event.kind in ("cut", "grow", "trial"))

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, such as "val/accuracy"."""
        lines = [line for line in self.metrics if name in line]
        return [int(line["step"]) for line in lines], [line[name] for line in lines]

    def state_dims(self) -> dict[str, Staircase]:
        """The state dimension of each layer from step 0 to the last.

        Empty for an unfinished run without events: its files do not say its sizes.
        """
        if self.events:
            start = {change.site: change.before for change in self.events[0].sites}
        else:
            start = {} if self.outcome is None else self.outcome.states_start
        steps, states = [0], {site: [n] for site, n in start.items()}
        for event in self.events:
            steps.append(event.step or 0)
            for change in event.sites:
                states[change.site].append(change.after)
        steps.append(self.last_step)
        return {
            site: Staircase(steps=tuple(steps), states=(*values, values[-1]))
            for site, values in states.items()
        }


def read_run(path: str | Path, label: str | None = None) -> RunRecord:
    """Read a run folder, finished or not; `label` is the folder's name by default.

    Raises:
        CheckpointError: it is no run folder, or a file in it is damaged.
    """
    path = Path(path)
    names = ("metrics.jsonl", "events.jsonl", "summary.json")
    metrics, events, summary = (path / name for name in names)
    if not path.is_dir():
        raise CheckpointError(f"there is no run folder {path}")
    if not (metrics.is_file() or events.is_file() or summary.is_file()):
        raise CheckpointError(
            f"{path} is not the folder of a run: there is no {', '.join(names)} in it; "
            "give a folder that `compressm train` made"
        )
    outcome = None
    if summary.is_file():
        (outcome,) = _parse(summary, [read_text(summary)], Outcome.from_json)
    return RunRecord(
        path=path,
        label=label or path.resolve().name,
        events=tuple(_lines(events, _event)),
        metrics=tuple(_lines(metrics, _metrics)),
        outcome=outcome,
    )


def _lines(file: Path, parse: Callable[[str], T]) -> list[T]:
    """A JSONL file, without a last line that is still being written."""
    if not file.is_file():
        return []
    text = read_text(file)
    return _parse(file, text[: text.rfind("\n") + 1].splitlines(), parse)


def _parse(file: Path, texts: Iterable[str], parse: Callable[[str], T]) -> list[T]:
    values = []
    for number, text in enumerate(texts, start=1):
        try:
            values.append(parse(text))
        except CheckpointError as error:
            raise CheckpointError(f"{file}, record {number}: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{file} is damaged (record {number}): {error!r:.100}") from error
    return values


def _event(line: str) -> Event:
    event = Event.from_json(line)
    for change in event.sites:
        known = (change.site, str), (change.before, int), (change.after, int)
        if not all(isinstance(value, kind) for value, kind in known):
            raise TypeError(f"a layer is {change.site!r}, {change.before!r} → {change.after!r}")
    return event


def _metrics(line: str) -> dict[str, float]:
    values = _numbers(unstamped(json.loads(line), "it"), float)
    int(values["step"])  # it is there, and finite
    return values


N = TypeVar("N", int, float)


def _numbers(values: dict[str, str | float], kind: Callable[[str | float], N]) -> dict[str, N]:
    return {name: kind(value) for name, value in values.items()}
