"""How long training steps take, and the whole run."""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any

import lightning.pytorch as pl

from compressm.integrations.lightning import CompressionCallback
from compressm.runtime.accelerators import synchronize

# The median of so many steps stands for the speed of a model size.
WINDOW = 1000


def count_cuts(compression: CompressionCallback | None) -> int:
    """Cuts and growths so far in a run, which may be one without compression."""
    return 0 if compression is None else sum(e.kind in ("cut", "grow") for e in compression.events)


class StepClock(pl.Callback):
    """Times training steps (forward, backward, optimizer), apart for each model size.

    It must be the first callback: its clock then stops before a cut.

    Args:
        compression: the callback that makes the cuts.
        began: `time.perf_counter()` at the start of the run.

    Attributes:
        seconds: time spent in training steps.
        wall_seconds: time spent by the interrupted parts of a resumed run, before this one.
    """

    def __init__(self, compression: CompressionCallback | None, began: float) -> None:
        self.compression = compression
        self.seconds = 0.0
        self.wall_seconds = 0.0
        self._began = began
        self._started = 0.0
        self._first: float | None = None
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._cuts = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any
    ) -> None:
        cuts = count_cuts(self.compression)
        if cuts != self._cuts:
            self._first = self.first_ms
            self._window.clear()
            self._cuts = cuts
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        synchronize([module.device])
        elapsed = time.perf_counter() - self._started
        self.seconds += elapsed
        self._window.append(elapsed)

    @property
    def first_ms(self) -> float | None:
        """Median milliseconds of a step before the first cut."""
        return self.last_ms if self._first is None else self._first

    @property
    def last_ms(self) -> float | None:
        """Median milliseconds of a step after the last cut."""
        return 1e3 * statistics.median(self._window) if self._window else None

    def total_seconds(self) -> float:
        """Wall-clock since the run began, without the time between a kill and its resumption."""
        return self.wall_seconds + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "wall_seconds": self.total_seconds(),
            "first": self._first,
            "window": list(self._window),
            "cuts": self._cuts,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.wall_seconds = state_dict["seconds"], state_dict["wall_seconds"]
        self._first, self._cuts = state_dict["first"], state_dict["cuts"]
        self._window = deque(state_dict["window"], maxlen=WINDOW)
