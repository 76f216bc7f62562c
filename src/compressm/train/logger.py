"""Metrics as JSON lines, behind Lightning's logger interface."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from compressm.integrations.scalars import PREFIX
from compressm.storage.files import append_record


class JsonlLogger(Logger):
    """Appends {"format": …, "step": …, name: value, …} to a file, on disk when it is logged.

    Step is the number of optimizer steps made when the values were measured.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One line; Lightning counts steps from 0 and adds an epoch, which means nothing here.

        What happened to the states is in events.jsonl, with more about it.
        """
        values = {
            name: value
            for name, value in metrics.items()
            if name != "epoch" and not name.startswith(PREFIX)
        }
        if values:
            append_record(self.path, {"step": (step or 0) + 1, **values})

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """The run folder's config.yaml has them."""
