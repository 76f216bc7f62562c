"""What a model is worth and how long its step takes: the numbers that cuts are compared by."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from compressm.arguments import real, shown
from compressm.calibration import Calibration
from compressm.engine.proposal import Proposal
from compressm.engine.trials import Trials
from compressm.errors import InputError
from compressm.runtime.accelerators import devices_of, synchronize

LOSS = "loss"
Evaluate = Callable[[], Any]
# A turn is so many steps, or as many as take so many seconds.
_REPEATS, _LONG = 10, 0.05


@final
@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an evaluation found.

    Attributes:
        loss: None where none was given, or where it was not finite.
        metric: the same.
        name: how the metric is called.
    """

    loss: float | None = None
    metric: float | None = None
    name: str = "metric"


def evaluated(trials: Trials, evaluate: Evaluate) -> Figures:
    """The figures of the model as it is inside of a trial: one call, the mean over all ranks.

    Raises:
        InputError: `evaluate` returned neither a number nor a mapping of a loss, a metric or both.
    """
    found: dict[str, float] = {}

    def first() -> float:
        found.update(_read(evaluate()))
        return next(iter(found.values()))

    numbers = [trials.evaluate(first)]
    numbers += [trials.run.ranks.mean(value) for value in list(found.values())[1:]]
    values: dict[str, float | None] = {
        name: number if math.isfinite(number) else None
        for name, number in zip(found, numbers, strict=True)
    }
    name = next((name for name in values if name != LOSS), "metric")
    return Figures(loss=values.get(LOSS), metric=values.get(name), name=name)


def _read(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {"metric": real("evaluate", value)}
    others = [name for name in value if name != LOSS]
    if not value or len(others) > 1:
        raise InputError(
            f"evaluate: expected a number, or a dict with 'loss', one metric under its own name, "
            f"or both; it returned {shown(value)}"
        )
    return {str(name): real(f"evaluate: {name}", number) for name, number in value.items()}


def mean_loss(model: nn.Module, calibration: Calibration) -> Evaluate:
    """An evaluation by the loss of the calibration, over its batches."""
    loss = calibration.loss
    assert loss is not None

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        model.eval()
        batches = list(calibration.on_device(model))
        return {LOSS: math.fsum(float(loss(model, batch)) for batch in batches) / len(batches)}

    return evaluate


def forward_pass(model: nn.Module, calibration: Calibration) -> Callable[[], object]:
    """A step: the first batch of the data through the model, in evaluation mode."""
    batch = next(calibration.on_device(model))

    @torch.no_grad()
    def step() -> None:
        model.eval()
        calibration.call(model, batch)

    return step


def timed_in_turns(
    trials: Trials,
    proposals: Sequence[Proposal | None],
    step: Callable[[], object],
    rounds: int,
) -> list[float]:
    """Milliseconds of a step after each cut, the best over all turns.

    Every round comes to each cut in turn, so that a machine that slows down slows all of them, and
    makes one step that does not count. Short steps are repeated: the best of a few is hardly moved
    by what else the machine does.
    """
    devices = devices_of(trials.run.model)

    def best() -> float:
        step()
        synchronize(devices)
        found, begun = math.inf, time.perf_counter()
        for _ in range(_REPEATS):
            started = time.perf_counter()
            step()
            synchronize(devices)
            ended = time.perf_counter()
            found = min(found, ended - started)
            if ended - begun > _LONG:
                break
        return found

    times = [math.inf] * len(proposals)
    for _ in range(rounds):
        for i, proposal in enumerate(proposals):
            with trials.cut(proposal):
                times[i] = min(times[i], trials.evaluate(best))
    return [1e3 * seconds for seconds in times]
