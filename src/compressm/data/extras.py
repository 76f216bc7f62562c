"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from compressm.errors import MissingExtraError


def require(module: str, package: str) -> Any:
    """Import `module`, or say how to install the `package` that holds it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, "data") from error
