"""A hook of a live model that tells somebody else when weights were loaded."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import final

from torch import nn


@final
class AfterLoad:
    """Calls a method whose object it does not keep alive.

    In a copied or pickled model it does nothing.
    """

    def __init__(self, method: Callable[[], None] | None = None) -> None:
        self._method = None if method is None else weakref.WeakMethod(method)

    def __reduce__(self) -> tuple[type[AfterLoad], tuple[()]]:
        return AfterLoad, ()

    def __call__(self, module: nn.Module, incompatible_keys: object) -> None:
        method = None if self._method is None else self._method()
        if method is not None:
            method()
