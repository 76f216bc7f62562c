"""Weights and shapes from files, none of them by pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressm.arguments import shown
from compressm.errors import CheckpointError
from compressm.storage.tensors import read_shapes, read_tensors


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of those of a folder that `save_pretrained` wrote.

    Raises:
        CheckpointError: there are none, or a file is unreadable or was changed.
    """
    return {name: t for file in _files(Path(path)) for name, t in read_tensors(file)[0].items()}


def read_sizes(path: str | Path) -> dict[str, torch.Size]:
    """Their shapes alone."""
    return {name: size for file in _files(Path(path)) for name, size in read_shapes(file).items()}


def require_weights(state: Mapping[str, Any]) -> None:
    """Refuse what is no state dict of a model; what modules store as `extra_state` may be anything.

    Raises:
        CheckpointError: an entry is no tensor, or has no values.
    """
    for name, value in state.items():
        if str(name).endswith("_extra_state"):
            continue
        if not isinstance(value, Tensor):
            part = f", such as checkpoint[{name!r}]" if isinstance(value, Mapping) else ""
            raise CheckpointError(
                f"checkpoint: its entry {name!r} is no tensor but {shown(value)}; give the state "
                f"dict of the model itself{part}"
            )
        if value.is_meta:
            raise CheckpointError(
                f"checkpoint: {name} is on the meta device, so it has no values; load the weights "
                "themselves, or take the sizes alone with compressm.resize_"
            )


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
