"""Compressed weights into freshly built, full-size models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compressm.adapters.base import find_sites
from compressm.errors import CheckpointError
from compressm.writeback import resize_


def load_compressed(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> None:
    """Load the weights of a compressed model into `model`, resizing its layers first.

    Only parameters of compressible layers may differ in shape, and only in size: everything else
    must fit as in `load_state_dict(strict=True)`. Make the optimizer afterwards, since resized
    parameters are new objects.

    Args:
        model: built at any state dimension.
        source: a state dict, or the path of a .safetensors file (no pickle is ever read).

    Raises:
        CheckpointError: the file is missing or unreadable, a key is missing or unexpected, or a
            shape outside the compressible layers differs. The model is left as it was.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source))
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"checkpoint: {_listed(missing)} missing, {_listed(unexpected)} unexpected; build the "
            "model with the depth and options of the checkpoint"
        )
    resizable: dict[str, tuple[nn.Module, str]] = {}
    for site, found in find_sites(model).items():
        for name, _ in found.module.named_parameters(recurse=False):
            resizable[f"{site}.{name}" if site else name] = (found.module, name)
    wrong = [
        f"{key} {tuple(own[key].shape)} ≠ {tuple(value.shape)}"
        for key, value in state.items()
        if own[key].shape != value.shape and (key not in resizable or own[key].ndim != value.ndim)
    ]
    if wrong:
        raise CheckpointError(
            f"checkpoint: {_listed(wrong)} differ in shape outside the state dimension; build the "
            "model with the width of the checkpoint"
        )
    for key, (module, name) in resizable.items():
        resize_(model, module, name, state[key].shape)
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable .safetensors file (truncated, or of another kind): {error}"
        ) from error


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:4]) or "nothing"
    return shown if len(items) <= 4 else f"{shown} and {len(items) - 4} more"
