"""What the two streaming examples wrote: exported models on one core, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import listings

_RESULTS = Path(__file__).parents[1] / "experiments" / "results" / "streaming"
_SIGNALS = ("speech", "sensor")


def table() -> str:
    """One row a model: both signals, full and cut, in float32 and with weights of 8 bits."""
    columns = ["signal", "model", "states", "step", "real-time factor", "state", "file", "memory"]
    rows, made = [], []
    for name in _SIGNALS:
        stored = json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        rows += [_row(name, kind, figures) for kind, figures in stored["figures"].items()]
        made.append(f"{name} {stored['signal']['seconds']:,.0f} s")
    note = (
        f"Signals: {', '.join(made)}. Medians of three passes in turns, each in a fresh process; "
        "seconds are those of the processor. Memory: what came with and after the model. One seed. "
        "Source: `experiments/results/streaming`."
    )
    return "\n".join([listings.table([*columns, "error"], rows), "", note])


def _row(signal: str, kind: str, figures: dict[str, Any]) -> list[str]:
    error = (
        f"accuracy {figures['accuracy']:.1f} %"
        if "accuracy" in figures
        else f"mse {figures['mse']:.4f}"
    )
    return [
        signal,
        kind,
        ", ".join(map(str, figures["states"])),
        f"{figures['step_microseconds']:.0f} µs",
        f"{figures['real_time_factor']:.2g}",
        f"{figures['state_bytes']:,} B",
        f"{figures['file_bytes']:,} B",
        f"{figures['model_megabytes']:.1f} MB",
        error,
    ]
