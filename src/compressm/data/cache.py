"""Tensors that took time to make, kept as safetensors files between runs.

A file is found by a hash of its key (source files, their sizes and times, options), written
under another name and then renamed, and checked by a checksum when read. A file that is not
what it should be is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compressm.data.extras import require
from compressm.version import FORMAT

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """COMPRESSM_CACHE, or `compressm` where the system keeps the caches of a user.

    Raises:
        MissingExtraError: platformdirs, which knows that place, is not installed.
    """
    if own := os.environ.get("COMPRESSM_CACHE"):
        return Path(own).expanduser()
    folder: Path = require("platformdirs", "platformdirs").user_cache_path(
        "compressm", appauthor=False
    )
    return folder


def cached(
    name: str, key: dict[str, Any], build: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors that `build` makes, from the cache when they are there.

    `key` is any JSON-able description of all that the result depends on. A cache that cannot be
    written costs time, not the run: it is logged and the tensors are returned all the same.
    """
    # A cache of another format is another file.
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:20]
    path = cache_folder() / f"{name}-{digest}.safetensors"
    tensors = _read(path)
    if tensors is None:
        tensors = build()
        _write(path, tensors)
    return tensors


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            sums = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        log.warning("the cache file %s is unreadable (%s); building it again", path, error)
        return None
    if {name: _checksum(tensor) for name, tensor in tensors.items()} != sums:
        log.warning("the cache file %s is corrupt; building it again", path)
        return None
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    sums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        os.close(handle)
        try:
            save_file(tensors, partial, metadata=sums)
            os.replace(partial, path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        log.warning("cannot write the cache file %s (%s); see COMPRESSM_CACHE", path, error)


def _checksum(tensor: Tensor) -> str:
    return str(zlib.crc32(tensor.contiguous().numpy().data))
