"""Checkpoints that Lightning loads shard by shard, past `load_state_dict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from compressm.checkpoints import resize_
from compressm.events import Event

# Where Lightning puts all that is no shard, in the folder of a distributed checkpoint.
_REST = "meta.pt"


def resize_before_loading(trainer: pl.Trainer, key: str, part: Callable[[], nn.Module]) -> None:
    """Bring the model to the sizes of a checkpoint before `ModelParallelStrategy` restores it.

    The strategy reads shards into shards of the same shape, and no hook of a callback lies between
    the building of model and optimizers and that. So its `load_checkpoint` is stood in for once, on
    this one object.

    Args:
        trainer: before it builds the model.
        key: of the callback's state in the checkpoint, which has the events.
        part: gives the module that the events speak of, once it is built.
    """
    if not isinstance(trainer.strategy, ModelParallelStrategy):
        return
    strategy: Any = trainer.strategy

    def load(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        del strategy.load_checkpoint
        path = Path(strategy.broadcast(checkpoint_path))
        events = _events(path, key, weights_only)
        resize_(part(), [Event.from_json(line) for line in events])
        loaded: dict[str, Any] = strategy.load_checkpoint(checkpoint_path, weights_only)
        return loaded

    strategy.load_checkpoint = load


def _events(path: Path, key: str, weights_only: bool | None) -> list[str]:
    """The events in the callback's state, read as Lightning itself reads it."""
    file = path / _REST if path.is_dir() else path
    if not file.is_file():
        return []  # for Lightning to report
    rest = torch.load(file, map_location="cpu", mmap=True, weights_only=weights_only)
    saved = ((rest.get("callbacks") or {}).get(key) or {}).get("compressor") or {}
    events: list[str] = saved.get("events", [])
    return events
