"""The run folder: what lies where."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressm.errors import CheckpointError, ConfigError
from compressm.storage.files import PARTIAL, make_folder, read_text, write_text
from compressm.storage.outputs import require_folder
from compressm.storage.state_trees import load_tree
from compressm.storage.yaml_text import read_yaml, write_yaml
from compressm.train.config import RunConfig
from compressm.train.lock import locked
from compressm.train.parse import build_config
from compressm.version import stamp


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    config.yaml, sessions.jsonl, metrics.jsonl, events.jsonl, spectra.jsonl (where a recipe asks
    for it), summary.json, and in checkpoints/:
    resume.safetensors (all that `resume` needs), best.safetensors and last.safetensors (models).
    All but the logs are written whole or not at all.
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
    def spectra(self) -> Path:
        """One line per measurement that only looked."""
        return self.path / "spectra.jsonl"

    @property
    def sessions(self) -> Path:
        """One line for each time the run was begun or resumed: when, where and with what."""
        return self.path / "sessions.jsonl"

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
            ConfigError: `path` is there already and not empty, or cannot be written.
        """
        if path is None:
            numbered = (f"{name}-{i}" for i in itertools.count(2))
            candidates = (Path("runs") / n for n in itertools.chain([name], numbered))
            path = next(candidate for candidate in candidates if not candidate.exists())
        folder = cls(Path(path))
        folder._require_free()
        require_folder(path, "--out")
        return folder

    def _require_free(self) -> None:
        if self._holds_something():
            raise ConfigError(
                f"--out: {self.path} is there already; take another folder, or continue that run "
                f"with --resume {self.path}"
            )

    def _holds_something(self) -> bool:
        """Whether there is more than a run leaves that was killed while it made its folder."""
        if not self.path.is_dir():
            return self.path.exists()
        return any(item.suffix != PARTIAL for item in self.path.iterdir())

    def create(self, config: RunConfig) -> None:
        """Make the folder, with the settings in it.

        Raises:
            OutputError: it cannot be made.
        """
        make_folder(self.path)
        # First of all: from here on the run can be resumed.
        write_text(self.config, write_yaml({**stamp(), **config.to_dict()}))
        make_folder(self.checkpoint.parent)

    @contextmanager
    def held(self, new: RunConfig | None = None) -> Iterator[None]:
        """Keep other processes from working on the same run; `new` makes the folder first.

        Raises:
            ConfigError: another process is at work on it, or has begun a run there meanwhile.
            OutputError: it cannot be made.
        """
        make_folder(self.path)
        with locked(self.path) as alone:
            if not alone:
                raise ConfigError(
                    f"another process is at work on the run {self.path}; wait for its end, or "
                    "stop it"
                )
            if new is not None:
                self._require_free()
                self.create(new)
            make_folder(self.checkpoint.parent)
            yield

    @classmethod
    def open(cls, path: str | Path) -> tuple[RunFolder, RunConfig]:
        """The folder of an earlier run, and its settings.

        Raises:
            CheckpointError: it is not a run folder.
            ConfigError: its config.yaml is damaged, or the folder cannot be written.
        """
        folder = cls(Path(path))
        if not folder.config.is_file():
            raise CheckpointError(
                f"{path} is not a run folder: there is no config.yaml in it; "
                "give a folder that `compressm train` made"
            )
        values = read_yaml(folder.config)
        # A run writes all settings and whole lines; a file with less has lost its end.
        missing = [f.name for f in dataclasses.fields(RunConfig) if f.name not in values]
        if missing or not folder.config.read_bytes().endswith(b"\n"):
            lost = f"it has no {', '.join(missing)}" if missing else "its last line has no end"
            raise ConfigError(f"{folder.config} is truncated: {lost}; take another copy of it")
        try:
            config = build_config(values)
        except ConfigError as error:
            raise ConfigError(f"{folder.config}: {error}") from error
        require_folder(folder.checkpoint.parent, "--resume")
        return folder, config

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
        for log in (self.metrics, self.events, self.spectra):
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
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):  # the last one may be cut short by the kill
                raise CheckpointError(f"{path}, line {number} is damaged: {line:.60}") from error
    write_text(path, "".join(kept))
