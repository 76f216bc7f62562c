"""The singular values of every layer over a run, few enough points for a page to hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressm.report.charts import thinned
from compressm.report.names import short_names
from compressm.report.records import RunRecord
from compressm.report.tables import MISSING, Table, table
from compressm.report.words import what_happened

# Numbers that a page holds for all spectra of a run together, and the fewest and most for one.
_NUMBERS, _FEWEST, _MOST = 200_000, 10, 96
# Spectra of a run; of more measurements than that allows, evenly from all of them.
_SPECTRA = 20_000
# Shares of the largest are stored as thousandths of a power of ten, no smaller than this.
_FLOOR, _LEAST = -12_000, 1e-12
# Values that the table of a spectrum begins with.
_LEADING = 6


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One layer at one measurement; `after` is None where nothing was to be cut."""

    values: tuple[float, ...]
    before: int
    after: int | None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """All layers at one step, before what happened then."""

    step: int | None
    words: str
    sites: dict[str, Measured]


def measurements(record: RunRecord) -> list[Measurement]:
    """Of the events and of the looks between them, by step."""
    found = [
        Measurement(
            step=event.step,
            words=what_happened(event),
            sites={
                change.site: Measured(
                    values=change.values,
                    before=change.before,
                    after=change.after if event.kind != "measured" else None,
                )
                for change in event.sites
                if max(change.values, default=0.0) > 0
            },
        )
        for event in record.events
        if event.kind != "accepted"  # it has the spectra of its trial
    ]
    found += [
        Measurement(
            step=look.step,
            words="",
            sites={
                site: Measured(values=values, before=states, after=None)
                for site, (states, values) in look.sites.items()
                if max(values, default=0.0) > 0
            },
        )
        for look in record.looks
    ]
    # A look at the step of a cut came after it.
    return sorted((one for one in found if one.sites), key=lambda m: (m.step or 0, m.words == ""))


def spectra_data(record: RunRecord) -> dict[str, Any] | None:
    """What a page needs to draw them; None where nothing was measured.

    steps: of each measurement, with its wall-clock and what happened; layers: their module paths
    and names; spectra[i][j]: of layer i at measurement j [number of values, states, states after,
    levels, level of the last value kept], or None; levels are 1000 log10(σ / σ_1) at the places
    places[number of values].
    """
    found = measurements(record)
    if not found:
        return None
    names = short_names(dict.fromkeys(site for one in found for site in one.sites))
    found = [found[i] for i in thinned(len(found), max(2, _SPECTRA // len(names)))]
    most = max(_FEWEST, min(_MOST, _NUMBERS // (len(found) * len(names))))
    counts = {len(m.values) for one in found for m in one.sites.values()}
    places = {count: _places(count, most) for count in sorted(counts)}
    return {
        "run": record.label,
        "steps": [
            {"step": one.step, "seconds": _seconds(record, one), "words": one.words}
            for one in found
        ],
        "layers": [{"site": site, "name": name} for site, name in names.items()],
        "places": places,
        "spectra": [[_packed(one.sites.get(site), places) for one in found] for site in names],
    }


def _seconds(record: RunRecord, one: Measurement) -> float | None:
    return None if one.step is None else record.pacing.seconds_at(one.step)


def _packed(measured: Measured | None, places: Mapping[int, Sequence[int]]) -> list[Any] | None:
    if measured is None:
        return None
    values, before, after = measured.values, measured.before, measured.after
    largest = max(values)
    levels = [_level(values[i] / largest) for i in places[len(values)]]
    kept = None
    if after is not None and 0 < after < before:
        kept = _level(values[min(after * _per_state(measured), len(values)) - 1] / largest)
    return [len(values), before, after, levels, kept]


def _per_state(measured: Measured) -> int:
    """Layers with real output have two singular values for each stored state."""
    return max(1, round(len(measured.values) / max(measured.before, 1)))


def _places(count: int, most: int) -> list[int]:
    """Of `count` values, denser at the start, where they fall fastest."""
    if count <= most:
        return list(range(count))
    spread = {round(count ** (i / (most - 1))) - 1 for i in range(most)}
    even = {i * (count - 1) // (most // 2) for i in range(most // 2 + 1)}
    return sorted((spread | even) & set(range(count)))[:count]


def _level(share: float) -> int:
    return round(1000 * math.log10(share)) if share > _LEAST else _FLOOR


def spectra_table(record: RunRecord) -> Table:
    """The leading values of each layer at each measurement."""
    found = measurements(record)
    names = short_names(dict.fromkeys(site for one in found for site in one.sites))
    rows = [row for one in found for row in _rows(one, names)]
    columns = ["step", "layer", "states", "σ₁", *(f"σ{_SUB[i]} / σ₁" for i in range(1, _LEADING))]
    return table(columns, rows)


_SUB: Sequence[str] = "₁₂₃₄₅₆₇₈₉"


def _rows(one: Measurement, names: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for site, m in one.sites.items():
        largest = max(m.values)
        leading = [f"{value / largest:.2g}" for value in m.values[1:_LEADING]]
        leading += [MISSING] * (_LEADING - 1 - len(leading))
        states = f"{m.before}" if m.after in (None, m.before) else f"{m.before} → {m.after}"
        step = MISSING if one.step is None else f"{one.step:,}"
        yield (step, names[site], states, f"{largest:.3g}", *leading)
