"""Joules of a run, where codecarbon is installed to tell them.

It is asked to write no file and to use no network. What it finds is a measurement where the
processor has counters that may be read (RAPL), and else an estimate from rated power; the result
says which.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

_JOULES = 3.6e6  # of a kilowatt-hour
# Between two readings of a run that goes on.
_INTERVAL = 5.0
_COUNTERS = ("intel_rapl", "windows_emi", "intel_power_gadget")


def available() -> bool:
    """Whether codecarbon is installed (`pip install 'compressm[energy]'`)."""
    return find_spec("codecarbon") is not None


class Joules:
    """Joules of a run that goes on; codecarbon tells it what it has read, every few seconds."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """From now on."""
        self._began = self._read_at = time.perf_counter()
        self._joules = 0.0

    def so_far(self) -> float | None:
        """The last reading, and the mean power since; None before the first one."""
        if not self._joules:
            return None
        watts = self._joules / (self._read_at - self._began)
        return self._joules + watts * (time.perf_counter() - self._read_at)

    def live_out(self, total: Any, delta: Any) -> None:
        """A reading."""
        self._joules, self._read_at = total.energy_consumed * _JOULES, time.perf_counter()

    def out(self, total: Any, delta: Any) -> None:
        """The last reading, which `counted` takes."""

    def exit(self) -> None:
        """There is nothing to close."""


@contextmanager
def counted(energy: dict[str, Any], running: Joules | None = None) -> Iterator[None]:
    """Fill `energy` with the joules of what is done inside; leave it empty without codecarbon.

    joules is the sum of processor_joules, memory_joules and accelerator_joules; method says how
    those of the processor were found, and seconds how long it took. `running` knows the joules so
    far while it is inside.
    """
    if not available():
        yield
        return
    from codecarbon import OfflineEmissionsTracker

    with _silent():
        tracker = OfflineEmissionsTracker(
            # Asked for by the offline mode; the emissions that it decides are not used.
            country_iso_code="USA",
            output_methods=[],
            output_handlers=[running] if running else [],
            allow_multiple_runs=True,
            tracking_mode="process",
            measure_power_secs=_INTERVAL,
            api_call_interval=1,
            log_level="critical",
        )
        tracker.start()
    if running:
        running.begin()
    try:
        yield
    finally:
        with _silent():
            tracker.stop()
    energy |= _said(tracker)


def _said(tracker: Any) -> dict[str, Any]:
    found = tracker.final_emissions_data
    parts = {
        "processor_joules": found.cpu_energy * _JOULES,
        "memory_joules": found.ram_energy * _JOULES,
        "accelerator_joules": found.gpu_energy * _JOULES,
    }
    return {
        "joules": sum(parts.values()),
        **parts,
        "seconds": found.duration,
        "method": _method(tracker),
        "codecarbon": version("codecarbon"),
    }


def _method(tracker: Any) -> str:
    """In words; the parts of codecarbon that know are not public."""
    for part in getattr(tracker, "_hardware", ()):
        if type(part).__name__ != "CPU":
            continue
        mode, watts = getattr(part, "_mode", "unknown"), getattr(part, "_tdp", None)
        if mode in _COUNTERS:
            return f"measured: counters of the processor ({mode}), of all that runs on the machine"
        if mode == "cpu_load" and watts:
            return f"estimated: this process's share of processor time at {watts:g} W for all cores"
        return f"estimated: {mode}" + (f", {watts:g} W" if watts else "")
    return "unknown"


@contextmanager
def _silent() -> Iterator[None]:
    """Keep codecarbon's log, which has its own handler, to itself."""
    logger = logging.getLogger("codecarbon")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
