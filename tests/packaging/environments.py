"""Virtual environments that hold what a package says it needs, and nothing else.

What is needed lies in the environment of the tests already; links to it stand for an installation,
metadata included, so nothing is downloaded or copied, and pip finds it all the same.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

OURS = "compressm"


def needed(requirements: list[str], extra: str = "") -> dict[str, Distribution]:
    """All that these requirements bring on this machine, and what that brings, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(text, wanted) for text in requirements for wanted in {"", extra}]
    while waiting:
        text, wanted = waiting.pop()
        one = Requirement(text)
        if (text, wanted) in seen or (one.marker and not one.marker.evaluate({"extra": wanted})):
            continue
        seen.add((text, wanted))
        further = requirements  # an extra of ours may name others of ours
        if one.name != OURS:
            found[one.name.lower()] = distribution(one.name)
            further = found[one.name.lower()].requires or []
        waiting += [(more, name) for more in further for name in ("", *one.extras)]
    return found


def environment(folder: Path, holding: Iterable[Distribution]) -> Path:
    """Make a virtual environment without pip that holds these; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    for one in holding:
        tops = {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "/")}
        for top in tops - {"__pycache__"}:
            link = site / top
            if not link.exists():  # some share a folder
                link.symlink_to(Path(str(one.locate_file(top))))
    return folder / "bin" / "python"


def install(python: Path, wheel: Path) -> None:
    """Install a wheel there; pip fails where it needs something that is not there."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    subprocess.run([*command, "--no-warn-script-location", wheel], check=True)
