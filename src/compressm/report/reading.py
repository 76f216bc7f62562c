"""Run folders to records; of an older run, or one of another loop, what its files have."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from compressm.errors import CheckpointError, ConfigError
from compressm.events import Event
from compressm.report.records import Look, Outcome, RunRecord
from compressm.storage.files import read_text
from compressm.version import unstamped

T = TypeVar("T")
N = TypeVar("N", int, float)


def read_run(path: str | Path, label: str | None = None) -> RunRecord:
    """Read a run folder, finished or not; `label` is the folder's name by default.

    A folder in which there is nothing but the `log=` of a `Compressor`, as events.jsonl, is one.

    Raises:
        CheckpointError: it is no run folder, or a file in it is damaged.
        ConfigError: its config.yaml is damaged, or of a newer version.
    """
    path = Path(path)
    names = ("metrics.jsonl", "events.jsonl", "summary.json")
    metrics, events, summary = (path / name for name in names)
    if not path.is_dir():
        raise CheckpointError(f"there is no run folder {path}")
    sessions, config = path / "sessions.jsonl", path / "config.yaml"
    if not any(file.is_file() for file in (metrics, events, summary, sessions)):
        raise CheckpointError(
            f"{path} is not the folder of a run: there is no {', '.join(names)} in it; "
            "give a folder that `compressm train` made"
        )
    outcome = None
    if summary.is_file():
        (outcome,) = _parse(summary, [read_text(summary)], _outcome)
    found = _lines(events, _event)
    _require_same_layers(events, found)
    return RunRecord(
        path=path,
        label=label or path.resolve().name,
        events=tuple(found),
        metrics=tuple(_lines(metrics, _metrics)),
        outcome=outcome,
        settings=_settings(config),
        settings_text=read_text(config) if config.is_file() else "",
        sessions=tuple(_lines(sessions, _session)),
        looks=tuple(_lines(path / "spectra.jsonl", _look)),
    )


def _settings(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    from compressm.storage.yaml_text import read_yaml  # here: it needs PyYAML

    return unstamped(read_yaml(file), file, ConfigError)


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


def _outcome(text: str) -> Outcome:
    raw = unstamped(json.loads(text), "it")
    start, end = raw["start"], raw["end"]
    energy = raw.get("energy", {})
    return Outcome(
        steps=int(raw["steps"]),
        states_start=_numbers(start["state_dims"], int),
        states_end=_numbers(end["state_dims"], int),
        parameters_start=int(start["parameters"]),
        parameters_end=int(end["parameters"]),
        best=_numbers(raw["best"], float),
        last=_numbers(raw["last"], float),
        wall_seconds=float(raw["wall_seconds"]),
        step_ms_start=_optional(raw["step_ms_start"]),
        step_ms_end=_optional(raw["step_ms_end"]),
        energy={**energy, "joules": float(energy["joules"])} if energy else {},
    )


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _event(line: str) -> Event:
    event = Event.from_json(line)
    known: list[tuple[Any, type | tuple[type, ...]]] = [
        (event.step, (int, type(None))),
        (event.kind, str),
        (event.seconds, (int, float)),
        (event.evaluation_seconds, (int, float)),
        (event.snapshot_bytes, int),
        (event.parameters_before, int),
        (event.parameters_after, int),
        (event.metric_before, (int, float, type(None))),
        (event.metric_after, (int, float, type(None))),
    ]
    for change in event.sites:
        known += [(change.site, str), (change.before, int), (change.after, int)]
        known += [(change.energy_kept, (int, float, type(None)))]
        _require_spectrum(change.site, change.values)
    for attempt in event.tried:
        known += [(attempt.metric, (int, float, type(None))), (dict(attempt.ranks), dict)]
        known += [(rank, int) for rank in attempt.ranks.values()]
    known += [(note, str) for note in event.notes]
    for value, kind in known:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} in an event")
    return event


def _require_spectrum(site: str, values: Sequence[Any]) -> None:
    numbers = set(map(type, values)) <= {int, float}
    if not numbers or not all(0 <= value < math.inf for value in values):
        raise TypeError(f"singular values of {site!r} that are none")


def _require_same_layers(file: Path, events: Iterable[Event]) -> None:
    """States are followed layer by layer, so all events must speak of the same ones."""
    layers: set[str] | None = None
    for number, event in enumerate(events, start=1):
        named = {change.site for change in event.sites}
        if layers is not None and named - layers:
            raise CheckpointError(
                f"{file} is damaged (record {number}): the layer {min(named - layers)!r} is not "
                "in the first event"
            )
        layers = layers or named


def _metrics(line: str) -> dict[str, float]:
    values = _numbers(unstamped(json.loads(line), "it"), float)
    int(values["step"])  # it is there, and finite
    return values


def _session(line: str) -> Mapping[str, Any]:
    return unstamped(json.loads(line), "it")


def _look(line: str) -> Look:
    raw = unstamped(json.loads(line), "it")
    sites = {
        str(name): (int(site["states"]), tuple(float(value) for value in site["values"]))
        for name, site in raw["sites"].items()
    }
    for name, (_, values) in sites.items():
        _require_spectrum(name, values)
    return Look(step=int(raw["step"]), sites=sites)


def _numbers(values: dict[str, str | float], kind: Callable[[str | float], N]) -> dict[str, N]:
    return {name: kind(value) for name, value in values.items()}
