"""Tensors in .safetensors files that say so when somebody has changed them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compressm.errors import CheckpointError
from compressm.storage.files import replace_file
from compressm.version import stamp, unstamped

_DIGEST = "sha256"
_STAMP = "compressm.stamp"


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a .safetensors file, whole or not at all.

    Its metadata have a checksum, and the versions of this format and of compressm.

    Args:
        path: of the file, which is replaced if it is there.
        tensors: of any device. Of tied ones each name gets values of its own, since the format
            knows no sharing.
        metadata: further texts to store.

    Raises:
        OutputError: it cannot be written; a former one is as it was.
    """
    stored: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in tensors.items():
        t = value.detach().cpu().contiguous()
        storage = t.untyped_storage()
        alone = storage.nbytes() == t.nbytes and storage.data_ptr() not in places
        places.add(storage.data_ptr())
        stored[name] = t if alone else t.clone()
    stamped = {**metadata, _STAMP: json.dumps(stamp())}
    sealed = {**stamped, _DIGEST: digest(stored, stamped)}
    replace_file(Path(path), lambda partial: save_file(stored, partial, metadata=sealed))


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
        CheckpointError: the file is missing, truncated, of another kind, or was changed, or a newer
            version of compressm wrote it.
    """
    with _opened(path) as archive:
        metadata = _metadata(archive, path)
        names = archive.keys() if weights else ()
        tensors: dict[str, Tensor] = {name: archive.get_tensor(name) for name in names}
    expected = metadata.pop(_DIGEST, None)
    if weights and sealed and expected is None:
        raise CheckpointError(f"{path} has no checksum; expected a file that compressm wrote")
    if weights and expected is not None and expected != digest(tensors, metadata):
        raise CheckpointError(
            f"{path} is damaged: its content does not match its checksum, so it was changed after "
            "it was written; take another copy, or an earlier checkpoint"
        )
    metadata.pop(_STAMP, None)
    return tensors, metadata


def read_shapes(path: str | Path) -> dict[str, torch.Size]:
    """The shapes of all tensors of a .safetensors file, whose values are not read.

    Raises:
        CheckpointError: the file is missing, truncated, or of another kind, or a newer version of
            compressm wrote it.
    """
    with _opened(path) as archive:
        _metadata(archive, path)
        names: list[str] = archive.keys()
        return {name: torch.Size(archive.get_slice(name).get_shape()) for name in names}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as archive:
            yield archive
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError) as error:
        if _is_pickle(path):
            raise CheckpointError(
                f"{path} is a pickle (torch.save, a checkpoint of Lightning), which can hold any "
                "program and is never opened; load it into its model in Python and give that to "
                "compressm.advise, compressm.compress_ or compressm.export.export"
            ) from error
        raise CheckpointError(
            f"{path} is not a readable .safetensors file (truncated, or of another kind): {error}"
        ) from error


def _is_pickle(path: str | Path) -> bool:
    """Whether it begins as files of `torch.save` do: a zip archive, or a bare pickle."""
    with suppress(OSError), open(path, "rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80\x02"))
    return False


def _metadata(archive: Any, path: str | Path) -> dict[str, str]:
    """What stands beside the tensors, in a file that this version can read."""
    metadata: dict[str, str] = archive.metadata() or {}
    try:
        said = dict(json.loads(metadata.get(_STAMP, "{}")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: it does not say its versions") from error
    unstamped(said, path)
    return metadata


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 in hexadecimal of names, types, shapes and bytes of CPU tensors, and of the texts."""
    total = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        t = tensors[name]
        total.update(f"{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        total.update(t.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
