"""Signals that wait until a model is whole again: Ctrl-C, and those by which clusters end a job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C last: it is the one whose handler raises, and the others are in their places by then.
_WAITING = ("SIGUSR1", "SIGUSR2", "SIGTERM", "SIGINT")


@contextmanager
def held() -> Iterator[None]:
    """Signal handlers that are written in Python run after the block, not in the middle of it.

    For a few assignments, never for work that takes long. Only the main thread runs handlers, so
    in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, Any]] = []
    handlers: dict[int, Callable[[int, Any], Any]] = {}

    def note(number: int, frame: Any) -> None:
        arrived.append((number, frame))

    try:
        for name in _WAITING:
            number = getattr(signal, name, None)
            handler = None if number is None else signal.getsignal(number)
            if number is not None and callable(handler):
                handlers[number] = handler
                signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in arrived:
            handlers[number](number, frame)
