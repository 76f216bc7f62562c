"""The figures of a finished run."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from compressm.events import Event, lasting
from compressm.train.clock import StepClock
from compressm.train.config import RunConfig
from compressm.train.sizes import states_of
from compressm.version import __version__, stamp


@dataclass(frozen=True, kw_only=True)
class Size:
    """States of each recurrent layer by module name, and parameters of the whole model."""

    state_dims: dict[str, int]
    parameters: int

    @classmethod
    def of(cls, model: nn.Module) -> Size:
        """The size of a model as it is."""
        parameters = sum(p.numel() for p in model.parameters())
        return cls(state_dims=states_of(model), parameters=parameters)

    def __str__(self) -> str:
        """In one phrase."""
        states = ", ".join(str(n) for n in self.state_dims.values())
        return f"state dimension {states}, {self.parameters:,} parameters"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What summary.json holds.

    Attributes:
        name, seed, config_hash, steps: of the run.
        start, end: sizes before the first and after the last cut.
        best: step, val/… and test/… of the model that validation chose after the last cut.
        last: the same of the model at the end.
        cuts: events at which a layer lost states, for good.
        wall_seconds: the whole run: loading data, training, validation, cuts, checkpoints, tests;
            of a resumed run its interrupted parts up to their last checkpoint as well.
        train_seconds: forward, backward and optimizer of all steps.
        compression_seconds: all measurements and cuts.
        step_ms_start: median milliseconds of a training step before the first cut.
        step_ms_end: the same after the last cut.
        energy: joules, of what, and how they were found; empty where they were not counted.
        threads: CPU threads.
        device: where it ran.
        versions: of compressm, torch, lightning and Python.
    """

    name: str
    seed: int
    config_hash: str
    steps: int
    start: Size
    end: Size
    best: dict[str, float]
    last: dict[str, float]
    cuts: int
    wall_seconds: float
    train_seconds: float
    compression_seconds: float
    step_ms_start: float | None
    step_ms_end: float | None
    energy: dict[str, Any]
    threads: int
    device: str
    versions: dict[str, str]

    @classmethod
    def collect(
        cls,
        config: RunConfig,
        *,
        start: Size,
        end: Size,
        best: dict[str, float],
        last: dict[str, float],
        events: Sequence[Event],
        clock: StepClock,
        energy: dict[str, Any],
        device: torch.device,
    ) -> Summary:
        """Gather the figures at the end of a run."""
        return cls(
            name=config.name,
            seed=config.seed,
            config_hash=config.fingerprint(),
            steps=config.trainer.steps,
            start=start,
            end=end,
            best=best,
            last=last,
            cuts=sum(any(c.after < c.before for c in e.sites) for e in lasting(events)),
            wall_seconds=clock.total_seconds(),
            train_seconds=clock.seconds,
            compression_seconds=sum(event.seconds for event in events),
            step_ms_start=clock.first_ms,
            step_ms_end=clock.last_ms,
            energy=energy,
            threads=torch.get_num_threads(),
            device=str(device),
            versions={
                "python": platform.python_version(),
                "compressm": __version__,
                **{name: version(name) for name in ("torch", "lightning")},
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts, with the version of this format."""
        return {**stamp(), **dataclasses.asdict(self)}
