"""Files that are there whole or not at all, and that say so when somebody has changed them.

A write goes to a neighbour of the file first, is flushed to the disk, and then takes the file's
name in one step: a process that dies at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compressm.errors import CheckpointError

_DIGEST = "sha256"
# What a kill in the middle of a write leaves behind; the next write of the file takes it over.
PARTIAL = ".partial"


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    _replace(Path(path), lambda partial: partial.write_text(text, encoding="utf-8"))


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a .safetensors file, whole or not at all, with a checksum in its metadata.

    Args:
        path: of the file, which is replaced if it is there.
        tensors: of any device. Of tied ones each name gets values of its own, since the format
            knows no sharing.
        metadata: further texts to store.
    """
    stored: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in tensors.items():
        t = value.detach().cpu().contiguous()
        storage = t.untyped_storage()
        alone = storage.nbytes() == t.nbytes and storage.data_ptr() not in places
        places.add(storage.data_ptr())
        stored[name] = t if alone else t.clone()
    sealed = {**metadata, _DIGEST: digest(stored, metadata)}
    _replace(Path(path), lambda partial: save_file(stored, partial, metadata=sealed))


def read_tensors(
    path: str | Path, *, weights: bool = True, sealed: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (none without `weights`) and the metadata of a .safetensors file.

    Nothing in such a file is ever executed. Its checksum is compared where it has one and all of
    it is read.

    Args:
        path: of the file.
        weights: False reads the metadata alone, unchecked.
        sealed: refuse a file without a checksum.

    Raises:
        CheckpointError: the file is missing, truncated, of another kind, or was changed.
    """
    try:
        with safe_open(path, framework="pt") as archive:
            metadata: dict[str, str] = archive.metadata() or {}
            names = archive.keys() if weights else ()
            tensors: dict[str, Tensor] = {name: archive.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable .safetensors file (truncated, or of another kind): {error}"
        ) from error
    expected = metadata.pop(_DIGEST, None)
    if weights and sealed and expected is None:
        raise CheckpointError(f"{path} has no checksum; expected a file that compressm wrote")
    if weights and expected is not None and expected != digest(tensors, metadata):
        raise CheckpointError(
            f"{path} is damaged: its content does not match its checksum, so it was changed after "
            "it was written; take another copy, or an earlier checkpoint"
        )
    return tensors, metadata


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 in hexadecimal of names, types, shapes and bytes of CPU tensors, and of the texts."""
    total = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        t = tensors[name]
        total.update(f"{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        total.update(t.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(path.name + PARTIAL)
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    if os.name == "posix":  # the new name itself is on the disk only once its folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
