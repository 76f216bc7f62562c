"""What each cut of a run cost, and what it has saved since."""

from __future__ import annotations

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
    found = []
    for place, event in enumerate(record.events):
        spent = event.seconds + event.evaluation_seconds
        cost_joules = None if watts is None else watts * spent
        if not changes(event) or event.step is None:
            found.append(Cost(event=event, cost_joules=cost_joules))
            continue
        following = [e.step for e in record.events[place + 1 :] if changes(e)]
        until = following[0] if following else None
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


def changes(event: Event) -> bool:
    """Whether layers have other states after it."""
    return any(change.before != change.after for change in event.sites)
