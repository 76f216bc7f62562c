"""Measure, plan, cut: once (`compress_`) or on a schedule inside a training loop (`Compressor`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from compressm.adapters.base import SELECTIONS, Select, find_sites
from compressm.calibration import Calibration, Forward, Loss
from compressm.errors import InputError
from compressm.events import Event, EventLog
from compressm.pipeline import Survey
from compressm.ranks import Policy
from compressm.schedule import Schedule
from compressm.spectrum import Spectrum
from compressm.writeback import as_optimizers, commit_

_NEVER = float("inf")


def measure(
    model: nn.Module,
    *,
    method: str = "auto",
    data: Iterable[Any] | Calibration | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
) -> dict[str, Spectrum]:
    """Hankel singular values (or their data-driven kin) of every compressible layer.

    Args:
        model: any module; layers are found by type through the registered adapters.
        method: "auto" or the name of a method of the layer families (docs: Methods).
        data: a few batches, or a `Calibration`, for methods that look at real activations.
        forward: `forward(model, batch)` where `model(batch)` is not the way to call it.
        loss: `loss(model, batch) -> scalar` for gradient-weighted methods.

    Returns:
        Spectrum by module path, in the order of the model.

    Raises:
        InputError: no compressible layer, an unknown method, or data that it needs is missing.
        UnstableSystemError: a layer has an eigenvalue on or outside the unit circle.
    """
    calibration = _calibration(data, forward, loss)
    return Survey.of(model, method, calibration).spectra


def compress_(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    policy: Policy,
    method: str = "auto",
    data: Iterable[Any] | Calibration | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    transport: str = "project",
    select: Select = "largest",
    seed: int = 0,
) -> Event:
    """Cut the states that do not matter out of a live model and its optimizer(s), in place, once.

    Args:
        model: changed in place: its layers get new, smaller parameters.
        optimizer: one, several or None; their groups and states follow the parameters.
        policy: how many states each layer keeps.
        method, data, forward, loss: see `measure`.
        transport: optimizer moments follow the change of basis ("project") or start anew
            ("reset").
        select: which states stay: the "largest"; "smallest" and "random" are for ablations.
        seed: of the random selection.

    Returns:
        The event: what was measured and what was cut.

    Raises:
        InputError, UnstableSystemError: as `measure`; nothing has been changed.
        OptimizerError: a cut parameter is trainable but in no optimizer; nothing has been changed.
    """
    calibration = _calibration(data, forward, loss)
    generator = torch.Generator().manual_seed(seed)
    optimizers = as_optimizers(optimizer)
    return _compress(
        model, optimizers, policy, method, calibration, transport, select, generator, step=None
    )


class Compressor:
    """Compression inside a training loop: call `step()` after every optimizer step.

    Args:
        model, optimizer, policy, method, data, forward, loss, transport, select, seed:
            as for `compress_`.
        schedule: the steps at which to measure and cut. Each of them is acted on exactly once.
        log: where events go: a path (JSONL) or a callable.

    Attributes:
        events: all events so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        policy: Policy,
        schedule: Schedule,
        method: str = "auto",
        data: Iterable[Any] | Calibration | None = None,
        forward: Forward | None = None,
        loss: Loss | None = None,
        transport: str = "project",
        select: Select = "largest",
        seed: int = 0,
        log: str | Path | Callable[[Event], None] | None = None,
    ) -> None:
        self.model = model
        self.optimizers = as_optimizers(optimizer)
        self.policy, self.schedule = policy, schedule
        self.method, self.transport, self.select = method, transport, select
        self.events: list[Event] = []
        self._calibration = _calibration(data, forward, loss)
        self._generator = torch.Generator().manual_seed(seed)
        self._log = EventLog(log) if isinstance(log, (str, Path)) else log
        self._step = 0
        self._acted = 0
        self._due: float = self._next_due()
        # A method that cannot work should say so now, not at the first cut.
        for site in find_sites(model).values():
            _check_select(select)
            site.adapter.observe(site.module, method, has_data=self._calibration is not None)

    @property
    def finished(self) -> bool:
        """Whether no cut is left on the schedule."""
        return self._due == _NEVER

    def step(self, step: int | None = None) -> Event | None:
        """Count one optimizer step (or set the count to `step`) and cut if one is due.

        When the count jumps over several due steps, one is acted on at each of the next calls.

        Returns:
            The event if something was due, else None.
        """
        self._step = self._step + 1 if step is None else step
        if self._step < self._due:
            return None
        self._acted = int(self._due)
        self._due = self._next_due()
        event = _compress(
            self.model,
            self.optimizers,
            self.policy,
            self.method,
            self._calibration,
            self.transport,
            self.select,
            self._generator,
            step=self._step,
        )
        self.events.append(event)
        if self._log is not None:
            self._log(event)
        return event

    def state_dict(self) -> dict[str, Any]:
        """Step count, cuts done, events and random state, for a resumed run."""
        return {
            "step": self._step,
            "acted": self._acted,
            "events": [event.to_json() for event in self.events],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; the model is loaded separately."""
        self._step, self._acted = int(state["step"]), int(state["acted"])
        self.events = [Event.from_json(line) for line in state["events"]]
        self._generator.set_state(state["generator"])
        self._due = self._next_due()

    def _next_due(self) -> float:
        due = self.schedule.next_after(self._acted)
        return _NEVER if due is None else due


def _compress(
    model: nn.Module,
    optimizers: list[Optimizer],
    policy: Policy,
    method: str,
    calibration: Calibration | None,
    transport: str,
    select: Select,
    generator: torch.Generator,
    *,
    step: int | None,
) -> Event:
    """measure → plan → reduce → refit → commit → event."""
    _check_select(select)
    started = time.perf_counter()
    before = sum(p.numel() for p in model.parameters())
    survey = Survey.of(model, method, calibration)
    proposal = survey.propose(policy.plan(survey.spectra), select=select, generator=generator)
    commit_(model, proposal.edits, optimizers, transport=transport)
    return Event(
        step=step,
        kind="cut" if proposal.cuts else "kept",
        method=method,
        sites=proposal.changes,
        parameters_before=before,
        parameters_after=sum(p.numel() for p in model.parameters()),
        seconds=time.perf_counter() - started,
    )


def _calibration(
    data: Iterable[Any] | Calibration | None, forward: Forward | None, loss: Loss | None
) -> Calibration | None:
    if data is None or isinstance(data, Calibration):
        if forward is not None or loss is not None:
            raise InputError(
                "forward, loss: these say how `data` runs through the model; give them together "
                "with data=<batches>, or inside the Calibration"
            )
        return data
    return Calibration(data, forward=forward, loss=loss)


def _check_select(select: str) -> None:
    if select not in SELECTIONS:
        raise InputError(f"select: expected one of {', '.join(SELECTIONS)}, got {select!r}")
