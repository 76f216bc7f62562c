"""Calibration data through the model, on every rank, for all probes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import nn

from compressm.calibration import Calibration, Probe
from compressm.calibration.finite import divergence
from compressm.distributed.fsdp import is_sharded, reshard_
from compressm.distributed.ranks import Poolable, Ranks
from compressm.errors import InputError, NonFiniteError
from compressm.writeback import undisturbed


@runtime_checkable
class Sharing(Protocol):
    """A probe that looks at a share of each batch, and has to know how many there are."""

    def expect(self, batches: int) -> None:
        """Before the first batch."""

    def done(self) -> None:
        """After the last."""


def as_many_on_all_ranks(calibration: Calibration | None, ranks: Ranks) -> Calibration | None:
    """As many batches as every rank has: a sharded model runs on all ranks or on none."""
    batches = [] if calibration is None else list(calibration.data)
    count = ranks.smallest(len(batches))
    with ranks.agreement("looking at data"):
        if count < len(batches) and not count:
            raise InputError("data: given on some ranks only; each needs batches of its own")
    if calibration is None or count == len(batches):
        return calibration
    return replace(calibration, data=batches[:count])


def pass_data(
    calibration: Calibration, model: nn.Module, probes: Sequence[Probe], ranks: Ranks
) -> None:
    """Let the probes see this rank's batches, and pool what the ranks have seen.

    Nothing of the model is changed by it, whatever `forward` and `loss` do.
    """
    if not probes:
        return
    sharing = [probe for probe in probes if isinstance(probe, Sharing)]
    with ranks.agreement("passing calibration data through the model"):
        for one in sharing:
            one.expect(len(list(calibration.data)))
        with undisturbed([model], argument="forward, loss", grads_aside=True):
            try:
                calibration.run(model, probes)
            except NonFiniteError as error:
                # Of a sharded model no rank can run a forward pass alone.
                where = None if is_sharded(model) else divergence(calibration, model, probes)
                raise NonFiniteError(where or f"data: {error}") from error
            finally:
                reshard_(model)
        for one in sharing:
            one.done()
    if ranks.size > 1:
        for probe in probes:
            if isinstance(probe, Poolable):
                probe.pool(ranks.total)
