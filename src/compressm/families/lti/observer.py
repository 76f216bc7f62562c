"""A linear layer as it is read, and its states on real data where a method asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from compressm import numerics
from compressm.calibration import Probe, some
from compressm.families.base import Observer
from compressm.families.lti.both_ways import joined, with_reverses
from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.family import LinearFamily
from compressm.families.lti.measured import Measured
from compressm.families.lti.measurement import LinearMeasurement
from compressm.families.lti.methods import METHODS
from compressm.families.lti.sources import CONTROLLABILITY, OBSERVABILITY


@final
class LinearObserver(Observer):
    """Reads the layer once; watches its inputs when the method asks for them."""

    def __init__(self, family: LinearFamily, module: nn.Module, name: str) -> None:
        self.family, self.module, self.method, self.runs = family, module, METHODS[name], name
        self.system = family.read(module)
        if family.horizon is None:
            self.system.require_stable()
        self._driven: DrivenStates | None = None
        if self.method.observes:
            gradient = self.method.weighs_by_loss
            self._driven = DrivenStates(family.inputs, module, self.system, needs_gradient=gradient)
            self.probe: Probe | None = self._driven

    @torch.no_grad()
    def as_read(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int, steps: int
    ) -> tuple[Tensor, Tensor | None] | None:
        if self.family.tensors is None:
            return None
        u, mask = self.family.inputs(args, kwargs)
        both = self.system.both_ways
        # What comes first depends on what comes last where a layer reads both ways.
        u, mask = some(u, mask, rows, u.shape[1] if both else steps)
        counted = u if mask is None else torch.where(mask[..., None] > 0, u, 0)
        if not both:
            return numerics.simulated(self.system, counted), mask
        y = joined(numerics.simulated(self.system, with_reverses(counted)))
        return some(y, mask, rows, steps)

    def measure(self) -> LinearMeasurement:
        driven, method = self._driven, self.method
        measured = Measured(
            system=self.system,
            controllability=CONTROLLABILITY[method.controllability],
            observability=OBSERVABILITY[method.observability],
            seen=driven,
            real=self.system.real_output and method.real_pairs,
            horizon=self.family.horizon,
            real_readout=self.family.real_readout,
        )
        unseen = None if driven is None else driven.missing
        return LinearMeasurement(self.family, self.module, method, measured, unseen)
