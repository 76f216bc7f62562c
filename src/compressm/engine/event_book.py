"""The events of a run, and which of them its log has been given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from compressm.distributed.ranks import Ranks
from compressm.engine.saved_state import entry
from compressm.events import Event, EventLog


@final
class EventBook:
    """Events in their order; a log gets each of them once.

    Attributes:
        events: all so far.

    Args:
        log: a path, which the first rank writes, or a callable, called on every rank.
        ranks: the processes that cut together.
    """

    def __init__(self, log: str | Path | Callable[[Event], None] | None, ranks: Ranks) -> None:
        self.events: list[Event] = []
        self._ranks, self._told = ranks, 0
        if isinstance(log, (str, Path)):
            self._log: Callable[[Event], None] | None = EventLog(log) if ranks.first else None
        else:
            self._log = log

    def tell(self) -> None:
        """Give the log all events that it does not have, also those of calls that ended before."""
        if self._told == len(self.events):
            return
        with self._ranks.agreement("logging"):
            for event in self.events[self._told :]:
                if self._log is not None:
                    self._log(event)
                self._told += 1

    def state_dict(self) -> dict[str, Any]:
        """For a resumed run, as plain values."""
        return {"events": [event.to_json() for event in self.events], "told": self._told}

    def rewind(self, step: int) -> None:
        """A file loses what a killed run has written after this step, see `EventLog.rewind`."""
        if isinstance(self._log, EventLog):
            self._log.rewind(self.events[: self._told], step)

    def read_state(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """What goes on from a state that `state_dict` gave, which has been read by then.

        Raises:
            CheckpointError: it cannot be read.
        """
        events = entry(state, "events", lambda lines: [Event.from_json(line) for line in lines])
        told = entry(state, "told", int, len(events))

        def go_on() -> None:
            self.events, self._told = events, told

        return go_on
