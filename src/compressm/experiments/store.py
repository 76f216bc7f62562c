"""Results: one JSON file a run, in one folder an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressm.errors import DataError
from compressm.experiments.definition import Run
from compressm.storage.files import write_text
from compressm.version import stamp, unstamped

Result = dict[str, Any]


class Results:
    """The results of one experiment.

    Args:
        folder: of all experiments' results.
        experiment: name of this one.
    """

    def __init__(self, folder: str | Path, experiment: str) -> None:
        self.folder = Path(folder) / experiment

    def path(self, run: Run) -> Path:
        """The file of a run; another setting, whatever it is, has another file."""
        return self.folder / f"{run.name}-{run.fingerprint[:8]}.json"

    def finished(self, run: Run) -> Result | None:
        """The result of exactly this run, or None where it is missing or failed."""
        path = self.path(run)
        if not path.is_file():
            return None
        found = read_result(path)
        return found if found.get("status") == "done" and run.made(found) else None

    def write(self, run: Run, status: str, facts: Mapping[str, Any], **more: Any) -> Path:
        """Store what came of a run, replacing what was there.

        Args:
            run: which one.
            status: "done", or "failed" with the error in `more`.
            facts: where and with what it was made.
            more: figures, seconds, …
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            **stamp(),
            "experiment": run.experiment,
            "arm": run.arm,
            "seed": run.seed,
            "axes": dict(run.axes),
            "status": status,
            "fingerprint": run.fingerprint,
            **facts,
            **more,
            **run.describe(),
        }
        path = self.path(run)
        write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
        return path

    def __iter__(self) -> Iterator[Result]:
        """All finished results, migrated ones included, in the order of their files."""
        for path in sorted(self.folder.glob("*.json")):
            found = read_result(path)
            if found.get("status") == "done":
                yield found


def read_result(path: Path) -> Result:
    """What a result file holds.

    Raises:
        DataError: it cannot be read, is no JSON object, or is of a newer version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no result that can be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no result: expected a JSON object")
    return unstamped(found, path, DataError)
