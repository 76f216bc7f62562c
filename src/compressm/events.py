"""What happened: one event for each time the compressor acted."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressm.errors import CompressmError, InputError, OutputError
from compressm.storage.files import write_text
from compressm.version import stamp, unstamped

# Layers that the line of an attempt names one by one.
_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class SiteChange:
    """One layer in an event.

    Attributes:
        site: module path in the model.
        family: the layer family.
        method: the method that ran; families differ in what "auto" means. Empty in files from
            before it was recorded.
        before: states before.
        after: states after (the same when the layer was left alone).
        energy_kept: share of Σσ that the kept states carry (where existing modes are kept: that as
            many balanced states would); None where nothing was measured, or the states do nothing
            (`notes` says which), or where others than the largest were kept.
        bound: on the H-infinity error of the layer as it is stored, where it is guaranteed:
            2 Σ_{i>r} σ_i, and what rounding to its dtype adds.
        error: relative H2 error ||G - G_r|| / ||G|| of the layer as it is stored (for white noise),
            where it is defined.
        data_error: relative error of the layer on the calibration data, where there are any:
            sqrt(E||y - y_r||² / E||y - y_0||²) of its output y, whatever the method; y_0 is what it
            puts out without its states (D u), so this is the share of what they add. Of fits, on
            what they were fitted to.
        values: the singular values measured before the cut, largest first.
        notes: what else a reader should know (a clamped eigenvalue, a rank that was not there).
    """

    site: str
    family: str
    before: int
    after: int
    energy_kept: float | None
    bound: float | None = None
    error: float | None = None
    data_error: float | None = None
    values: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    method: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SiteChange:
        """The inverse of `to_dict`, also from JSON."""
        return cls(**{**raw, "values": tuple(raw["values"]), "notes": tuple(raw["notes"])})


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One cut that a guard looked at.

    Attributes:
        ranks: states of each layer after it, by module path.
        metric: the guard's metric after it; None while the guard waits for its recovery steps, or
            where it was not a finite number.
        accepted: the verdict; None while it is pending.
    """

    ranks: Mapping[str, int]
    metric: float | None = None
    accepted: bool | None = None

    def __str__(self) -> str:
        """A few words, however many layers there are."""
        if self.accepted is None:
            return f"{_ranks_text(self.ranks)} (pending)"
        metric = "not a finite number" if self.metric is None else f"{self.metric:.6g}"
        verdict = "accepted" if self.accepted else "rejected"
        return f"{_ranks_text(self.ranks)} ({metric}, {verdict})"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One measurement and what came of it.

    Attributes:
        step: optimizer step at which it happened (None outside a training loop).
        kind: "cut"; "grow" when a layer got new states (others may have been cut); or "kept" when
            the policy found nothing worth changing. With a guard also "trial" (cut, to be judged
            after recovery steps), then "accepted"; or "rejected" (no attempt passed, everything is
            as it was before). "measured": nothing but that.
        method: the method that ran, or the several, as the layers have them: never "auto".
        sites: every compressible layer.
        parameters_before: parameters of the whole model before.
        parameters_after: and after.
        seconds: wall-clock of measuring, planning and cutting together.
        metric_before: the guard's metric before the cut.
        metric_after: and after; None where it was not a finite number.
        attempts: cuts tried; each after the first took half as many states.
        tried: each of them, with its ranks, its metric and the verdict. Empty without a guard.
        evaluation_seconds: wall-clock of the guard's evaluations (not part of `seconds`).
        snapshot_bytes: the guard's copy of model and optimizers, in memory or in its folder; the
            peak is that much above the training itself, plus the new, smaller parameters.
        notes: what the policy has to say, such as how many evaluations it took, and what there is
            to say about the guard's metric.
    """

    step: int | None
    kind: str
    method: str
    sites: tuple[SiteChange, ...]
    parameters_before: int
    parameters_after: int
    seconds: float
    metric_before: float | None = None
    metric_after: float | None = None
    attempts: int = 1
    evaluation_seconds: float = 0.0
    snapshot_bytes: int = 0
    notes: tuple[str, ...] = ()
    tried: tuple[Attempt, ...] = ()

    @property
    def resizes(self) -> bool:
        """Whether a layer has other states after it."""
        return any(change.before != change.after for change in self.sites)

    def to_json(self) -> str:
        """One JSON object on one line, with the version of this format."""
        return json.dumps({**stamp(), **asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str, source: str = "an event") -> Event:
        """The event of a line that `to_json` wrote; `source` is how the error calls it.

        Raises:
            CheckpointError: a newer version of compressm wrote it.
        """
        raw: dict[str, Any] = unstamped(json.loads(line), source)
        sites = tuple(SiteChange.from_dict(site) for site in raw.pop("sites"))
        tried = tuple(Attempt(**attempt) for attempt in raw.pop("tried", ()))
        return cls(sites=sites, tried=tried, **{**raw, "notes": tuple(raw.get("notes", ()))})

    def __str__(self) -> str:
        """One line for a log."""
        changed = [f"{s.site or '(model)'} {s.before} → {s.after}" for s in self.sites]
        where = "" if self.step is None else f"step {self.step}: "
        line = f"{where}{self.kind} ({', '.join(changed)}) in {self.seconds:.2f} s"
        if self.metric_before is not None and self.metric_after is not None:
            line += f", metric {self.metric_before:.6g} → {self.metric_after:.6g}"
        # One attempt that was accepted is what the line has said already.
        if len(self.tried) > 1 or (self.tried and self.kind == "rejected"):
            line += f"; tried {', '.join(map(str, self.tried))}"
        return "; ".join([line, *self.notes])


def kind_of(changes: Sequence[SiteChange]) -> str:
    """What an event of changes that stay is called: "grow", "cut" or "kept"."""
    if any(change.after > change.before for change in changes):
        return "grow"
    return "cut" if any(change.after < change.before for change in changes) else "kept"


def lasting(events: Sequence[Event]) -> list[Event]:
    """The events after which layers have other states than before, and keep them.

    Of a cut on trial the verdict counts; the trial itself only as long as there is none.
    """
    verdicts = ("cut", "grow", "accepted")
    return [
        event
        for place, event in enumerate(events, start=1)
        if event.resizes
        and (event.kind in verdicts or (event.kind == "trial" and place == len(events)))
    ]


def _ranks_text(ranks: Mapping[str, int]) -> str:
    """ "a 4, b 8"; of many layers "4 … 8 in 24 layers", and of equal ones "4 in 24 layers"."""
    if len(ranks) <= _NAMED:
        return ", ".join(f"{site or '(model)'} {rank}" for site, rank in ranks.items())
    low, high = min(ranks.values()), max(ranks.values())
    return f"{low if low == high else f'{low} … {high}'} in {len(ranks)} layers"


def _living(lines: Sequence[str], told: Sequence[Event], step: int) -> int:
    """How many lines of a log, from its start, are no later than the step of a run that goes on."""
    end = len(lines)
    if end and not lines[-1].endswith("\n"):  # cut short by a kill
        end -= 1
    events = [_event_of(line) for line in lines[:end]]
    known = max((i for i, event in enumerate(events) if told and event == told[-1]), default=-1)
    later: float = float("inf")
    while end > known + 1:
        event = events[end - 1]
        if event is None or event.step is None or not step < event.step <= later:
            break
        later = event.step
        end -= 1
    return end


def _event_of(line: str) -> Event | None:
    """The event of a line, None where it holds none."""
    try:
        return Event.from_json(line)
    except (ValueError, TypeError, KeyError, AttributeError, CompressmError):
        return None


class EventLog:
    """Appends events to a JSONL file, each line flushed as it is written.

    A line that cannot be written (a full disk) stops no training: there is a warning, and it is
    written before the next one. The file never ends in half a line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise InputError(f"log: {self.path} is a folder; expected a file for lines of JSON")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._waiting: list[str] = []

    def __call__(self, event: Event) -> None:
        """Append one event."""
        self._waiting.append(event.to_json() + "\n")
        try:
            self._append("".join(self._waiting).encode())
        except OSError as error:
            warnings.warn(
                f"log: {self.path} cannot be written ({error}); the next event takes along the "
                f"{len(self._waiting)} that wait, and compressor.events has them",
                stacklevel=3,
            )
        else:
            self._waiting.clear()

    def _append(self, lines: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                while lines:
                    lines = lines[file.write(lines) :]
            except BaseException:
                file.truncate(size)
                raise

    def rewind(self, told: Sequence[Event], step: int) -> None:
        """Drop what a run has written that was killed, and goes on from an earlier step now.

        Those are the lines behind the last event that the run knows of which are of later steps;
        without such an event, the last lines of the file that are. A run that has written to the
        file before keeps its lines, and a file that cannot be rewritten is a warning.

        Args:
            told: the events that the run has given the log, up to where it goes on.
            step: where that is.
        """
        self._waiting.clear()
        if not self.path.is_file():
            return
        try:
            whole = self.path.read_text(encoding="utf-8")
            lines = whole.splitlines(keepends=True)
            kept = lines[: _living(lines, told, step)]
            if kept != lines:
                write_text(self.path, "".join(kept))
        except (OSError, ValueError, OutputError) as error:
            warnings.warn(
                f"log: {self.path} cannot be rewritten ({error}); it keeps the events after step "
                f"{step} of the run that goes on from there",
                stacklevel=3,
            )

    @staticmethod
    def read(path: str | Path) -> list[Event]:
        """All events of a file."""
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [Event.from_json(line, f"an event of {path}") for line in lines if line.strip()]
