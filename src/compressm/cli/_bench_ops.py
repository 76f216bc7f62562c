"""`compressm bench ops`: every backend of the LRU, alone and inside the whole model."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from compressm.cli._timing import machine_facts, save, warn_if_busy
from compressm.experiments.speed.lru import SETTINGS, Timing, measure_ops


def _table(timings: list[Timing], facts: dict[str, Any], rounds: int) -> Table:
    gflops = facts["gflops"]
    table = Table(
        title=f"milliseconds, best of {rounds}",
        caption=f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}; matrix "
        f"products: {gflops['compressm.ops.linear']} GFLOP/s, torch.mm "
        f"{gflops['torch.mm']}. ● what backend='auto' takes.",
    )
    for title in ("setting", "N", "backend"):
        table.add_column(title)
    for title in ("forward", "and backward", "whole-model step"):
        table.add_column(title, justify="right")
    for index, row in enumerate(timings):
        name = f"{row.backend} T={row.chunk}" if row.backend == "chunk" else row.backend
        table.add_row(
            row.setting,
            str(row.states),
            f"{'●' if row.chosen else ' '} {name}",
            *(f"{best:.1f}" for best, _ in (row.forward, row.forward_backward, row.model_step)),
            end_section=index + 1 < len(timings) and timings[index + 1].states != row.states,
        )
    return table


def bench_ops(
    json_path: Path | None = None, *, quick: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Time the operators and print a table.

    Args:
        json_path: also write the numbers and facts about the machine here.
        quick: largest and smallest N only, three rounds: under 20 seconds.
        console: where to print; standard output by default.

    Returns:
        What is written to `json_path`.
    """
    console = console or Console()
    warn_if_busy(console)
    settings = SETTINGS
    if quick:
        settings = tuple(replace(s, states=(s.states[0], s.states[-1])) for s in SETTINGS)
    rounds = 3 if quick else 8
    facts = machine_facts()
    timings = measure_ops(settings, rounds=rounds)
    console.print(_table(timings, facts, rounds))
    result = {
        "machine": facts,
        "rounds": rounds,
        "settings": [asdict(setting) for setting in settings],
        "timings": [asdict(timing) for timing in timings],
    }
    save(result, json_path)
    return result
