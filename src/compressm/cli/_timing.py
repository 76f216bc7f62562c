"""What every `compressm bench` does: say on which machine, and keep the numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from compressm.experiments.speed.clock import load, products_gflops
from compressm.storage.files import write_text
from compressm.train.provenance import provenance
from compressm.version import stamp


def warn_if_busy(console: Console) -> None:
    """Say that milliseconds of a busy machine are not to be trusted."""
    busy, cores = load(), os.cpu_count() or 1
    if busy is not None and busy > 0.3 * cores:
        console.print(
            f"[yellow]warning:[/] the machine is busy (load {busy:.1f} on {cores} cores); "
            "trust the ratios more than the milliseconds"
        )


def machine_facts() -> dict[str, Any]:
    """Processor, threads, versions, load, and the GFLOP/s that matrix products reach here."""
    facts = provenance()
    machine, versions = facts["machine"], facts["versions"]
    return {
        "cpu": machine["cpu"],
        "capability": machine["capability"],
        "threads": torch.get_num_threads(),
        "torch": versions["torch"],
        "python": versions["python"],
        "load": machine["load_one_minute"],
        "gflops": products_gflops(),
    }


def save(result: dict[str, Any], path: Path | None) -> None:
    """Write the numbers as JSON, if anybody asked for them."""
    if path is not None:
        write_text(path, json.dumps({**stamp(), **result}, indent=1) + "\n")
