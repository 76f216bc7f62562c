"""Figures of many runs: groups that differ in the seed alone, their mean and deviation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

Key = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation (0 for one value) of so many values."""

    mean: float
    std: float
    n: int


def spread(values: Iterable[float]) -> Spread:
    """Over seeds."""
    values = list(values)
    return Spread(mean=fmean(values), std=stdev(values) if len(values) > 1 else 0.0, n=len(values))


def grouped(
    results: Iterable[Mapping[str, Any]], axes: Sequence[str] = ()
) -> dict[Key, list[Mapping[str, Any]]]:
    """Results by (arm, *axes), each group in the order of its seeds.

    An axis that an arm does not have is None in its key.
    """
    groups: dict[Key, list[Mapping[str, Any]]] = {}
    for result in results:
        settings = {**result["settings"], **result["axes"]}
        key = (result["arm"], *(settings.get(axis) for axis in axes))
        groups.setdefault(key, []).append(result)
    return {key: sorted(group, key=lambda r: r["seed"]) for key, group in groups.items()}
