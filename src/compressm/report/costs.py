"""What each cut of a run cost, and what it has saved since."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from compressm.events import Event
from compressm.report.records import RunRecord


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One event.

    Attributes:
        event: which one.
        ms_before, ms_after: median milliseconds of a step before it, and after it up to the next.
        saved_seconds: (ms_before - ms_after) times the steps since, to the end of what is known;
            over all cuts these add up to what the smaller models have saved.
        bytes_before, bytes_after: parameters, gradients and optimizer states.
        cost_joules, saved_joules: those seconds at the mean power of the run.
    """

    event: Event
    ms_before: float | None = None
    ms_after: float | None = None
    saved_seconds: float | None = None
    bytes_before: float | None = None
    bytes_after: float | None = None
    cost_joules: float | None = None
    saved_joules: float | None = None

    @property
    def seconds(self) -> float:
        """Measuring, planning, cutting, and evaluating the metric of a guard."""
        return self.event.seconds + self.event.evaluation_seconds


def costs(record: RunRecord) -> list[Cost]:
    """Of every event, in order; what the files of the run do not say is None."""
    pacing, last = record.pacing, record.last_step
    watts = pacing.watts()
    changing = {id(event) for event in record.lasting}
    steps = sorted(event.step for event in record.lasting if event.step is not None)
    found = []
    for event in record.events:
        spent = event.seconds + event.evaluation_seconds
        cost_joules = None if watts is None else watts * spent
        if id(event) not in changing or event.step is None:
            found.append(Cost(event=event, cost_joules=cost_joules))
            continue
        place = bisect.bisect_right(steps, event.step)
        until = steps[place] if place < len(steps) else None
        before, after = pacing.step_ms_around(event.step, until)
        saved = None
        if before is not None and after is not None:
            saved = (before - after) / 1e3 * (last - event.step)
        bytes_before, bytes_after = pacing.bytes_around(event.step)
        found.append(
            Cost(
                event=event,
                ms_before=before,
                ms_after=after,
                saved_seconds=saved,
                bytes_before=bytes_before,
                bytes_after=bytes_after,
                cost_joules=cost_joules,
                saved_joules=None if watts is None or saved is None else watts * saved,
            )
        )
    return found
