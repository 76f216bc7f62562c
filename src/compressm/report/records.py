"""What a run folder says about its run: its settings, its events, its figures over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from compressm.events import Event, lasting
from compressm.report.pacing import Pacing

# Events after which a layer may have other states than before.
CUT_KINDS = ("cut", "grow", "trial")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The figures of a finished run that comparisons need, from summary.json.

    Attributes:
        steps: optimizer steps of the run.
        states_start, states_end: states of each layer before the first and after the last cut.
        parameters_start, parameters_end: of the whole model.
        best, last: "step", "val/…" and "test/…" of the model that validation chose after the last
            cut, and of the last model.
        wall_seconds: the whole run.
        step_ms_start, step_ms_end: median milliseconds of a training step before and after cuts.
        energy: joules and how they were found; empty where they were not counted.
    """

    steps: int
    states_start: dict[str, int]
    states_end: dict[str, int]
    parameters_start: int
    parameters_end: int
    best: dict[str, float]
    last: dict[str, float]
    wall_seconds: float
    step_ms_start: float | None
    step_ms_end: float | None
    energy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Staircase:
    """The state dimension of one layer over a run: `states[i]` from step `steps[i]` on."""

    steps: tuple[int, ...]
    states: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Look:
    """All spectra at one step, measured without a cut: states and singular values by layer."""

    step: int
    sites: Mapping[str, tuple[int, tuple[float, ...]]]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run.

    Attributes:
        path: its folder.
        label: what figures and tables call it.
        events: of events.jsonl, in order.
        metrics: the lines of metrics.jsonl, each with its "step".
        outcome: None while the run is not finished.
        settings, settings_text: of config.yaml; empty where there is none.
        sessions: when, where and with what it was begun or resumed, of sessions.jsonl.
        looks: of spectra.jsonl.
    """

    path: Path
    label: str
    events: tuple[Event, ...]
    metrics: tuple[dict[str, float], ...]
    outcome: Outcome | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_text: str = ""
    sessions: tuple[Mapping[str, Any], ...] = ()
    looks: tuple[Look, ...] = ()

    @cached_property
    def last_step(self) -> int:
        """The last step that the files know of."""
        steps = [int(line["step"]) for line in self.metrics]
        steps += [event.step or 0 for event in self.events]
        return max([0 if self.outcome is None else self.outcome.steps, *steps])

    @property
    def planned_steps(self) -> int | None:
        """Steps that the run is to have; None where nothing says so."""
        if self.outcome is not None:
            return self.outcome.steps
        trainer = self.settings.get("trainer")
        steps = trainer.get("steps") if isinstance(trainer, dict) else None
        return steps if isinstance(steps, int) and steps > 0 else None

    @cached_property
    def pacing(self) -> Pacing:
        """What the run takes, and has taken at each step."""
        counted = self.outcome.energy.get("joules") if self.outcome else None
        return Pacing.of(self.series, counted)

    @property
    def cuts(self) -> tuple[Event, ...]:
        """The events at which sizes changed (a guard may have undone a "trial" later)."""
        return tuple(event for event in self.events if event.kind in CUT_KINDS)

    @cached_property
    def lasting(self) -> tuple[Event, ...]:
        """The events at which sizes changed for good; the last may be on trial."""
        return tuple(lasting(self.events))

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, such as "val/accuracy"."""
        lines = [line for line in self.metrics if name in line]
        return [int(line["step"]) for line in lines], [line[name] for line in lines]

    def state_dims(self) -> dict[str, Staircase]:
        """The state dimension of each layer from step 0 to the last.

        Empty for an unfinished run without events or looks: its files do not say its sizes.
        """
        start: dict[str, int] = {}
        if self.events:
            start = {change.site: change.before for change in self.events[0].sites}
        elif self.outcome is not None:
            start = self.outcome.states_start
        elif self.looks:
            start = {site: states for site, (states, _) in self.looks[0].sites.items()}
        steps, states = [0], {site: [n] for site, n in start.items()}
        for event in self.events:
            steps.append(event.step or 0)
            after = {change.site: change.after for change in event.sites}
            for site, values in states.items():
                values.append(after.get(site, values[-1]))
        steps.append(self.last_step)
        return {
            site: Staircase(steps=tuple(steps), states=(*values, values[-1]))
            for site, values in states.items()
        }
