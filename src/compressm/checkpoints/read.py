"""Weights and shapes from files, none of them by pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from compressm.errors import CheckpointError
from compressm.files import read_shapes, read_tensors


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of those of a folder that `save_pretrained` wrote.

    Raises:
        CheckpointError: there are none, or a file is unreadable or was changed.
    """
    return {name: t for file in _files(Path(path)) for name, t in read_tensors(file)[0].items()}


def read_sizes(path: str | Path) -> dict[str, torch.Size]:
    """Their shapes alone."""
    return {name: size for file in _files(Path(path)) for name, size in read_shapes(file).items()}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{path} holds no model*.safetensors; give a folder that save_pretrained wrote, or a "
            ".safetensors file"
        )
    return files
