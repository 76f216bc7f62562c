"""Files that are there whole or not at all, and that say so when somebody has changed them.

A write goes to a neighbour of the file first, is flushed to the disk, and then takes the file's
name in one step: a process that dies at any moment leaves the old file or the new one. What is
written has the permissions of the file that it replaces, or those that the umask gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compressm.errors import CheckpointError, OutputError
from compressm.version import stamp, unstamped

_DIGEST = "sha256"
_STAMP = "compressm.stamp"
# What a kill in the middle of a write leaves behind; the next write of the file takes it over.
PARTIAL = ".partial"


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OutputError: it cannot be written; a former one is as it was.
    """
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError: it cannot be written; a former one is as it was.
    """
    _replace(Path(path), lambda partial: partial.write_bytes(content))


def append_record(path: str | Path, values: Mapping[str, Any]) -> None:
    """Add a line of JSON to a log, which is made if it is not there; whole, if the system lets us.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(path)
    line = json.dumps({**stamp(), **values})
    before = path.stat().st_size if path.is_file() else None
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        if before is not None:
            with contextlib.suppress(OSError):
                os.truncate(path, before)
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error


def make_folder(path: str | Path) -> None:
    """Make a folder, and those that it is in, where they are not there yet.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {path} cannot be made: {reason(error)}") from error


def read_text(path: str | Path) -> str:
    """The content of a text file.

    Raises:
        CheckpointError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is damaged: it is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error


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
    _replace(Path(path), lambda partial: save_file(stored, partial, metadata=sealed))


def write_folder(
    path: str | Path, write: Callable[[Path], object], *, stale: Callable[[str], bool], last: str
) -> None:
    """Write a folder of files, with a new folder whole or not at all.

    In a folder that is there already its files are replaced one by one, and others stay.

    Args:
        path: of the folder.
        write: puts the files into an empty folder beside it.
        stale: whether a file of the former content, by its name, would be taken for one of the new.
        last: name of the file that is replaced after all others.

    Raises:
        OutputError: it cannot be written; a former content is as it was.
    """
    folder = Path(os.path.realpath(path))
    partial = folder.with_name(folder.name + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        mode = _fresh_mode(partial / last)
        write(partial)
        made = sorted(partial.iterdir(), key=lambda file: file.name == last)
        for file in made:
            _settle(file, folder / file.name, mode)
        if not folder.exists():
            os.replace(partial, folder)
            return
        for old in folder.iterdir():
            if stale(old.name) and not (partial / old.name).exists():
                old.unlink()
        for file in made:
            os.replace(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def reason(error: Exception) -> str:
    """Why the system refused a file, without the path, which our messages name themselves."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    # Of a link the file that it names is replaced, not the link.
    file = Path(os.path.realpath(path))
    partial = file.with_name(file.name + PARTIAL)
    try:
        mode = _fresh_mode(partial)
        write(partial)
        _settle(partial, file, mode)
        os.replace(partial, file)
        if os.name == "posix":  # the new name itself is on the disk only once its folder is
            folder = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        # A write that failed leaves nothing; after one that did not, this name is gone.
        with contextlib.suppress(OSError):
            partial.unlink()


def _fresh_mode(path: Path) -> int:
    """The permissions that a new file gets at this unused name; it is there then, and empty."""
    path.unlink(missing_ok=True)
    path.touch()
    return path.stat().st_mode


def _settle(written: Path, file: Path, mode: int) -> None:
    """Make what was written ready to take the place of `file`: permissions, and on the disk.

    safetensors gives its files to their owner alone, whatever the umask says.
    """
    if file.exists():
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"{file} is no ordinary file, so it cannot be replaced")
    written.chmod(stat.S_IMODE(mode))
    with written.open("rb") as content:
        os.fsync(content.fileno())
