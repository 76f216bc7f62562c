"""A reduced system for one linear layer: refitted, measured against the full one, and written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from compressm import numerics
from compressm.calibration import Probe
from compressm.edits import Edit
from compressm.families.base import Draft
from compressm.families.lti.driven_states import DrivenStates
from compressm.numerics import Reduction
from compressm.numerics.lti.coordinates import in_real_coordinates

if TYPE_CHECKING:
    from compressm.families.lti.adapter import LinearMeasurement

# From this width 1 - |λ| on, rounding in float64 is looked after (1e-16 / width² of a residue).
_CLOSE = 1e-4
# A maximum over frequencies is found to rounding; this covers the frequencies in between.
_SLACK = 1.01
# Rounding that takes this share of the largest singular value is worth a note.
_MUCH = 0.1
# Relative errors below this are rounding, which no fit can gain on.
_NO_ERROR = 1e-6


@final
class LinearDraft(Draft):
    """A reduced system for one layer."""

    def __init__(
        self,
        measurement: LinearMeasurement,
        reduction: Reduction,
        *,
        refit_on_data: bool,
        guaranteed: bool = False,
    ) -> None:
        observer = measurement.observer
        self.observer, self.reduction, self._white = observer, reduction, measurement.white
        self.notes, self._guaranteed = reduction.notes, guaranteed
        self.directions = reduction.order
        self._joint: Tensor | None = None
        gramians = measurement.gramians
        if reduction.indices is not None and observer.method.controllability == "empirical":
            modes, real = reduction.indices, gramians.real
            self._joint = numerics.joint_of_modes(gramians.P, modes, real=real)
        self._driven: DrivenStates | None = None
        if refit_on_data:
            joint = numerics.stack(observer.system, reduction.system)
            self._driven = DrivenStates(observer.adapter.inputs, observer.module, joint)
            self.probe: Probe | None = self._driven

    @property
    def rank(self) -> int:
        return self.reduction.system.order

    def finish(self) -> None:
        full, joint = self.observer.system, self._joint
        missing = None if self._driven is None else self._driven.missing
        if missing:
            self.notes += (f"not refitted on data: {missing}",)
        elif self._driven is not None:
            joint, unfitted = self._driven.states.moment, self.reduction.system
            refitted = numerics.data_refit(full, unfitted, joint)
            self.reduction = numerics.with_system(self.reduction, refitted)
            before = numerics.output_error(full, unfitted, joint)
            after = numerics.output_error(full, refitted, joint)
            self.notes += without_gain("the refit on data", before, after)
        reduced = self.reduction.system
        size = numerics.h2_norm(full, P=self._white)
        if size > 0:
            self.error = numerics.h2_error(full, reduced, P=self._white) / size
        if joint is not None:
            self.data_error = numerics.output_error(full, reduced, joint)

    def edits(self) -> Sequence[Edit]:
        reduction = self.reduction
        if reduction.system.real_output:
            lift, project = (in_real_coordinates(m) for m in (reduction.lift, reduction.project))
            reduction = replace(reduction, lift=lift, project=project)
        edits = self.observer.adapter.write(self.observer.module, reduction)
        if self._guaranteed:
            self._bound(edits)
        return edits

    def _bound(self, edits: Sequence[Edit]) -> None:
        """The bound of what the layer stores: that of the truncation, and what rounding adds."""
        full, reduction = self.observer.system, self.reduction
        if reduction.order is None or reduction.sigma is None:
            return
        exact = numerics.truncation_bound(reduction.sigma, reduction.order)
        poles = torch.cat([full.A, reduction.system.A])
        if reduction.inexact or float(numerics.width(poles).min()) < _CLOSE:
            # Here float64 itself may have missed the truncation that the bound is about.
            found = numerics.hinf_error(full, reduction.system)
            exact = max(exact, found * _SLACK)
        stored = self.observer.adapter.stored(self.observer.module, edits)
        added = numerics.mode_distance(reduction.system, stored)
        added += numerics.rounding_error(full) + numerics.rounding_error(stored)
        added += numerics.rounding_error(reduction.system)
        if not math.isfinite(added):
            self.notes += ("no bound: eigenvalues are on the unit circle but for rounding",)
            return
        self.bound = exact + added
        if added > max(exact, _MUCH * float(reduction.sigma[0])):
            self.notes += (
                f"rounding of what is stored takes {added:.2g} of the bound: eigenvalues come "
                f"within {float(numerics.width(stored.A).min()):.1g} of the unit circle",
            )


def without_gain(what: str, before: float | None, after: float | None) -> tuple[str, ...]:
    """A note where a fit left the error that there was, or more, and there was one."""
    if before is None or after is None or before <= _NO_ERROR or after < before:
        return ()
    return (f"{what} gained nothing: the error is {after:.2g} with and without it",)
