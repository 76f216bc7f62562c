"""A stored run once more, from the configuration in its own file, and how far it comes out again.

What defines the experiment is not read, so a definition that has changed since does not matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressm.errors import ConfigError, DataError
from compressm.experiments.definition import Run
from compressm.experiments.kinds import build_kind
from compressm.experiments.store import read_result
from compressm.train.parse import build_config

# Figures that another machine, or the same one at another hour, has otherwise. `milliseconds`,
# `curve_seconds` and all the like contain one of these words.
OF_THE_MACHINE = ("seconds", "joules", "gflop", "speedup", "times_ours", "share_percent", "energy")


@dataclass(frozen=True)
class Difference:
    """A figure that did not come out again.

    Attributes:
        name: its place, such as `chosen.test_accuracy_percent`.
        stored, again: the figure in the file, and the one of the second run.
    """

    name: str
    stored: Any
    again: Any


@dataclass(frozen=True)
class Comparison:
    """A stored run and its repetition.

    Attributes:
        same: how many figures are the same to the last bit.
        other: those that are not.
        unmatched: places of figures that only one of the two has: versions differ in what they
            write down.
    """

    same: int
    other: list[Difference]
    unmatched: list[str]


def run_of(path: str | Path) -> Run:
    """The run that a result file describes.

    Raises:
        DataError: no result that can be read, or one without its configuration.
        ConfigError: this version knows a setting of it no more.
    """
    path = Path(path)
    stored = read_result(path)
    wanted = ("experiment", "arm", "seed", "kind", "settings", "configuration", "figures")
    missing = [name for name in wanted if name not in stored]
    if missing:
        raise DataError(f"{path} is no result of a whole run: it has no {', '.join(missing)}")
    values = stored["configuration"]
    if isinstance(values, str):
        raise DataError(
            f"{path} was made before results held their configuration; it says {values!r}. "
            f"`compressm bench reproduce {stored['experiment']}` makes such runs anew"
        )
    try:
        return Run(
            experiment=stored["experiment"],
            arm=stored["arm"],
            seed=stored["seed"],
            kind_name=stored["kind"],
            kind=build_kind(stored["kind"], stored["settings"], "settings"),
            config=None if values is None else build_config(values),
            axes=stored.get("axes", {}),
            threads=stored.get("threads", 1),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def compared(stored: Mapping[str, Any], again: Mapping[str, Any]) -> Comparison:
    """Two runs figure by figure; times, energies and what follows from them are left out."""
    before, after = dict(_figures(stored, "")), dict(_figures(again, ""))
    both = [name for name in before if name in after]
    other = [name for name in both if before[name] != after[name]]
    return Comparison(
        same=len(both) - len(other),
        other=[Difference(name, before[name], after[name]) for name in other],
        unmatched=sorted(before.keys() ^ after.keys()),
    )


def _figures(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(place, figure) of every leaf, as JSON keeps them."""
    if any(word in name.rpartition(".")[2] for word in OF_THE_MACHINE):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _figures(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _figures(item, f"{name}[{index}]")
    else:
        yield name, json.loads(json.dumps(value))
