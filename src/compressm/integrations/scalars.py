"""An event for loggers of metrics: as numbers by name, and as histograms where they take those."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressm.events import Event, SiteChange

PREFIX = "compressm/"
# The share of Σσ that `energy_rank` is about.
SHARE = 0.99
# Where the spectrum of a histogram ends: what is smaller is rounding.
_FLOOR = 1e-12


def scalars(event: Event) -> dict[str, float]:
    """States, cut and cost of an event, by names that stay as they are.

    `compressm/step`, `parameters`, `states` (of all layers together), `cut_seconds` (measuring,
    planning and cutting) and `evaluation_seconds`; `metric_before`, `metric_after`, `attempts` and
    `snapshot_bytes` of a guard; `compressm/kind/KIND` is 1. By layer `compressm/states/LAYER`,
    `energy_kept/LAYER`, `energy_rank/LAYER` (the fewest states with 99 % of Σσ before the cut),
    `error/LAYER`, `bound/LAYER` and `data_error/LAYER`, as in `SiteChange`. What is not known is
    left out.
    """
    guarded = event.metric_before is not None
    whole = {
        "step": event.step,
        "parameters": event.parameters_after,
        "states": sum(site.after for site in event.sites),
        "cut_seconds": event.seconds,
        "evaluation_seconds": event.evaluation_seconds,
        "metric_before": event.metric_before,
        "metric_after": event.metric_after,
        "attempts": event.attempts if guarded else None,
        "snapshot_bytes": event.snapshot_bytes if guarded else None,
        f"kind/{event.kind}": 1,
    }
    layers = {
        f"{what}/{site.site or 'model'}": value
        for site in event.sites
        for what, value in _of_layer(site).items()
    }
    return {
        PREFIX + name: float(value)
        for name, value in {**whole, **layers}.items()
        if value is not None
    }


def _of_layer(site: SiteChange) -> dict[str, float | None]:
    return {
        "states": site.after,
        "energy_kept": site.energy_kept,
        "energy_rank": energy_rank(site),
        "error": site.error,
        "bound": site.bound,
        "data_error": site.data_error,
    }


def energy_rank(site: SiteChange, share: float = SHARE) -> int | None:
    """The fewest states whose singular values are `share` of Σσ; None without a spectrum."""
    total = sum(site.values)
    if total <= 0:
        return None
    per_state = max(1, round(len(site.values) / site.before))
    so_far = 0.0
    for count, value in enumerate(site.values, start=1):
        so_far += value
        if so_far >= share * total:
            return -(-count // per_state)
    return site.before  # rounding


def histograms(event: Event) -> dict[str, Tensor]:
    """`compressm/spectrum/LAYER`: log10(σ_i / σ_1) of every layer that has a spectrum."""
    found = {}
    for site in event.sites:
        values = torch.tensor(site.values, dtype=torch.float64, device="cpu")
        if len(values) and values[0] > 0:
            shares = (values / values[0]).clamp_min(_FLOOR).log10()
            found[f"{PREFIX}spectrum/{site.site or 'model'}"] = shares
    return found


def write_histograms(writer: Any, event: Event, step: int, prefix: str = "") -> None:
    """Give them to a writer of TensorBoard files, or do nothing where it is none."""
    add = getattr(writer, "add_histogram", None)
    if add is not None:
        for name, values in histograms(event).items():
            add(prefix + name, values, step)
