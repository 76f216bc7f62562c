"""How long exported models take for a step, in turns, so that a busy moment slows all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from compressm.export.exporting import Exported

_WARM_UP = 10


def step_milliseconds(
    models: Sequence[Exported], inputs: Sequence[Tensor], *, rounds: int = 300
) -> list[float]:
    """Median milliseconds of a step of each model, for one stream on one core.

    A graph of single steps is called once a turn; of a graph of stretches a whole sequence is run
    in a turn, and its time divided by its steps.

    Args:
        models: exported, which need not be of one size.
        inputs: of each a sequence to run, (1, L, C) or (1, L).
        rounds: turns of single steps; of whole sequences a tenth of them.
    """
    calls = [_call(model, x) for model, x in zip(models, inputs, strict=True)]
    if any(model.graph.form != "step" for model in models):
        rounds = max(1, rounds // 10)
    times: list[list[float]] = [[] for _ in calls]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()
    try:
        for turn in range(-min(_WARM_UP, rounds), rounds):
            for (given, steps), model, found in zip(calls, models, times, strict=True):
                started = time.perf_counter()
                model.run(given)
                if turn >= 0:
                    found.append(1e3 * (time.perf_counter() - started) / steps)
    finally:
        gc.enable()
        torch.set_num_threads(threads)
    return [statistics.median(found) for found in times]


def _call(model: Exported, inputs: Tensor) -> tuple[list[Tensor], int]:
    """The arguments of a call, and how many steps it makes."""
    if model.graph.form == "step":
        return [inputs[:, 0].contiguous(), *model.graph.zeros(1)], 1
    return [inputs, *model.graph.zeros(1)], inputs.shape[1]
