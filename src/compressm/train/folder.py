"""The run folder: what lies where."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compressm.errors import CheckpointError, ConfigError
from compressm.files import PARTIAL, write_text
from compressm.train.config import RunConfig
from compressm.train.parse import build_config, read_yaml
from compressm.trees import load_tree


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    config.yaml, metrics.jsonl, events.jsonl, summary.json, and in checkpoints/:
    resume.safetensors (all that `resume` needs), best.safetensors and last.safetensors (models).
    All but the two logs are written whole or not at all.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The complete settings."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One line per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One line per cut."""
        return self.path / "events.jsonl"

    @property
    def summary(self) -> Path:
        """Written when the run is finished."""
        return self.path / "summary.json"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to resume."""
        return self.path / "checkpoints" / "resume.safetensors"

    def model(self, which: str) -> Path:
        """The model file "best" or "last"."""
        return self.path / "checkpoints" / f"{which}.safetensors"

    @classmethod
    def choose(cls, name: str, path: str | Path | None) -> RunFolder:
        """A folder for a new run: `path`, or runs/NAME, runs/NAME-2, ….

        Raises:
            ConfigError: `path` is there already and not empty.
        """
        if path is None:
            numbered = (f"{name}-{i}" for i in itertools.count(2))
            candidates = (Path("runs") / n for n in itertools.chain([name], numbered))
            path = next(candidate for candidate in candidates if not candidate.exists())
        folder = cls(Path(path))
        if folder._holds_something():
            raise ConfigError(
                f"{path} is there already; take another folder, or continue that run with "
                f"--resume {path}"
            )
        return folder

    def _holds_something(self) -> bool:
        """Whether there is more than a run leaves that was killed while it made its folder."""
        if not self.path.is_dir():
            return self.path.exists()
        return any(item.suffix != PARTIAL for item in self.path.iterdir())

    def create(self, config: RunConfig) -> None:
        """Make the folder, with the settings in it.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # First of all: from here on the run can be resumed.
            write_text(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False))
            self.checkpoint.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the folder {self.path} cannot be written: {error}") from error

    @classmethod
    def open(cls, path: str | Path) -> tuple[RunFolder, RunConfig]:
        """The folder of an earlier run, and its settings.

        Raises:
            CheckpointError: it is not a run folder.
            ConfigError: its config.yaml was damaged.
        """
        folder = cls(Path(path))
        if not folder.config.is_file():
            raise CheckpointError(
                f"{path} is not a run folder: there is no config.yaml in it; "
                "give a folder that `compressm train` made"
            )
        folder.checkpoint.parent.mkdir(exist_ok=True)
        return folder, build_config(read_yaml(folder.config))

    def rewind(self) -> bool:
        """Make the logs end where the checkpoint was taken; false if there is no checkpoint.

        Raises:
            CheckpointError: the checkpoint or a log is damaged.
        """
        step = 0
        if self.checkpoint.is_file():
            content = load_tree(self.checkpoint)
            if not isinstance(content, dict) or "global_step" not in content:
                raise CheckpointError(f"{self.checkpoint} is not the checkpoint of a run")
            step = content["global_step"]
        for log in (self.metrics, self.events):
            _drop_lines_after(log, step)
        return self.checkpoint.is_file()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """summary.json, which also marks the run as finished."""
        write_text(self.summary, json.dumps(summary, indent=2) + "\n")


def _drop_lines_after(path: Path, step: int) -> None:
    """Remove the lines of a JSONL file that a resumed run will write again.

    Raises:
        CheckpointError: a line in the middle of the file is not JSON.
    """
    if not path.is_file():
        return
    kept = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):  # the last one may be cut short by the kill
                raise CheckpointError(f"{path}, line {number} is damaged: {line:.60}") from error
    write_text(path, "".join(kept))
