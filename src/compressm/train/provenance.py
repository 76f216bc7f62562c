"""Where and with what a run or a result was made."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from compressm.version import __version__

_PACKAGES = ("torch", "lightning", "numpy", "transformers")


def provenance() -> dict[str, Any]:
    """Commit, versions, processor, load and time, as plain values."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "load_one_minute": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def commit() -> str:
    """Of the code, with "-dirty" where files differ from it; "unknown" outside a clone.

    That of the first look: what this process has imported stays what it is when the files change.
    """
    here = Path(__file__)
    try:
        # A package installed somewhere inside a clone of something else has no commit there.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ("git", "-C", str(folder), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _versions() -> dict[str, str]:
    found = {"compressm": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
