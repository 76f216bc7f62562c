"""What is alive in this process, whoever made it and keeps it."""

from __future__ import annotations

import gc
from itertools import compress
from typing import TypeVar

T = TypeVar("T")


class _Kinds(dict[type, bool]):
    """Whether a type is one of those wanted, found out once for each."""

    def __init__(self, wanted: type) -> None:
        self._wanted = wanted

    def __missing__(self, kind: type) -> bool:
        self[kind] = issubclass(kind, self._wanted)
        return self[kind]


def living(wanted: type[T]) -> list[T]:
    """All objects of this type or one below it; some may be garbage not collected yet.

    A process has half a million objects, so no line of Python runs for each of them. Types decide:
    `isinstance` would ask proxies for their class.
    """
    everything = gc.get_objects()
    return list(compress(everything, map(_Kinds(wanted).__getitem__, map(type, everything))))
