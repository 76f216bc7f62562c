"""`compressm bench mamba`: the selective scan, and a training step of a small Mamba around it."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from compressm.cli._timing import machine_facts, save, warn_if_busy
from compressm.errors import InputError
from compressm.experiments.speed.mamba import SETTING, Setting, Timing, measure_mamba, ratios
from compressm.ops.build import kernels


def _table(setting: Setting, timings: list[Timing], facts: dict[str, Any]) -> Table:
    table = Table(
        title=f"milliseconds at batch {setting.batch}, L={setting.length}, best",
        caption=f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}. "
        f"The model: {setting.depth} layers, width {setting.width}, {2 * setting.width} channels; "
        "forward, backward and AdamW. * measured at a shorter length, scaled linearly.",
    )
    for title in ("what", "code"):
        table.add_column(title)
    for title in ("N", "ms", "times ours"):
        table.add_column(title, justify="right")
    against = ratios(setting, timings)
    for index, t in enumerate(timings):
        scaled = t.best * setting.length / t.length
        table.add_row(
            t.what,
            t.code,
            str(t.states),
            f"{scaled:.1f}{' *' if t.length != setting.length else ''}",
            f"{against[t.what, t.code, t.states]:.1f}",
            end_section=index + 1 < len(timings) and timings[index + 1].states != t.states,
        )
    return table


def bench_mamba(
    json_path: Path | None = None, *, quick: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Time scans and training steps of a small Mamba, and print a table.

    Args:
        json_path: also write the numbers and facts about the machine here.
        quick: fewest and most states only, three rounds, without transformers' own loop.
        console: where to print; standard output by default.

    Returns:
        What is written to `json_path`.

    Raises:
        InputError: transformers is not installed.
    """
    if find_spec("transformers") is None:
        raise InputError("bench mamba: needs transformers; pip install 'compressm[transformers]'")
    console = console or Console()
    warn_if_busy(console)
    setting = SETTING
    if quick:
        setting = replace(setting, scan_states=(setting.scan_states[0], setting.scan_states[-1]))
    if find_spec("mambapy") is None:
        console.print("mambapy is not installed (pip install 'compressm[bench]'): left out")
    rounds = 3 if quick else 6
    facts = machine_facts() | {"kernel": kernels() is not None}
    for package in ("transformers", "mambapy"):
        facts[package] = version(package) if find_spec(package) is not None else None
    timings = measure_mamba(setting, rounds=rounds, loop=not quick)
    console.print(_table(setting, timings, facts))
    result = {
        "machine": facts,
        "rounds": rounds,
        "setting": asdict(setting),
        "timings": [asdict(timing) for timing in timings],
        "times_ours": [
            {"what": what, "code": code, "states": states, "ratio": round(ratio, 2)}
            for (what, code, states), ratio in ratios(setting, timings).items()
        ],
    }
    save(result, json_path)
    return result
