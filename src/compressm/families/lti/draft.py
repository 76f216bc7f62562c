"""A reduced system for one linear layer: refitted, measured against the full one, and written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import final

import torch
from torch import nn

from compressm import numerics
from compressm.calibration import Probe
from compressm.edits import Edit
from compressm.errors import UnstableSystemError
from compressm.families.base import Draft
from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.family import LinearFamily
from compressm.families.lti.measured import Measured
from compressm.families.lti.refits import Refit
from compressm.numerics.lti.coordinates import in_real_coordinates
from compressm.numerics.lti.system import StateSpace

# From this width 1 - |λ| on, rounding in float64 is looked after (1e-16 / width² of a residue).
_CLOSE = 1e-4
# A maximum over frequencies is found to rounding; this covers the frequencies in between.
_SLACK = 1.01
# Rounding that takes this share of the largest singular value is worth a note.
_MUCH = 0.1


@final
class LinearDraft(Draft):
    """A reduced system for one layer."""

    def __init__(
        self,
        family: LinearFamily,
        module: nn.Module,
        measured: Measured,
        refit: Refit,
        *,
        guaranteed: bool,
    ) -> None:
        self._family, self._module, self._measured = family, module, measured
        self._refit, self._guaranteed = refit, guaranteed
        self.reduction = refit.reduction
        self.notes = self.reduction.notes
        self.directions = self.reduction.order
        self.probe: Probe | None = refit.probe
        self._watching: DrivenStates | None = None
        # Moments of the states that chose modes say it all.
        if refit.probe is None and not (measured.driven and self.reduction.indices is not None):
            both = numerics.stack(measured.system, self.reduction.system)
            self._watching = DrivenStates(family.inputs, module, both)
            self.probe = self._watching

    @property
    def rank(self) -> int:
        return self.reduction.system.order

    def finish(self) -> None:
        full = self._measured.system
        self.reduction = self._refit.finish()
        self.notes += self._refit.notes
        self.data_error = self._refit.data_error
        indices, joint = self.reduction.indices, self._refit.joint
        if self._watching is not None and not self._watching.missing:
            joint = self._watching.states.moment
        known = joint is not None or self.data_error is not None
        if not known and indices is not None and self._measured.driven:
            joint = numerics.joint_of_modes(self._measured.P, indices, real=self._measured.real)
        if joint is not None:
            self.data_error = numerics.output_error(full, self.reduction.system, joint)

    def edits(self) -> Sequence[Edit]:
        reduction = self.reduction
        if reduction.system.real_output:
            lift, project = (in_real_coordinates(m) for m in (reduction.lift, reduction.project))
            reduction = replace(reduction, lift=lift, project=project)
        edits = self._family.write(self._module, reduction)
        stored = self._family.stored(self._module, edits)
        self._compare(stored)
        if self._guaranteed:
            self._bound(stored)
        return edits

    def _compare(self, stored: StateSpace) -> None:
        """The error of what the layer stores, near the circle more than that of the reduction."""
        full, white, steps = self._measured.system, self._measured.white, self._measured.horizon
        size = numerics.h2_norm(full, P=white, horizon=steps)
        if size > 0:
            with suppress(UnstableSystemError):  # on the circle by rounding, where no norm is
                self.error = numerics.h2_error(full, stored, P=white, horizon=steps) / size

    def _bound(self, stored: StateSpace) -> None:
        """The bound of what the layer stores: that of the truncation, and what rounding adds."""
        full, reduction = self._measured.system, self.reduction
        if reduction.orders is None or reduction.sigma is None:
            return
        exact = numerics.truncation_bound(reduction.sigma, reduction.orders)
        poles = torch.cat([full.A, reduction.system.A], -1)
        if reduction.inexact or float(numerics.width(poles).min()) < _CLOSE:
            # Here float64 itself may have missed the truncation that the bound is about.
            near = (numerics.width(poles).amin(-1) < _CLOSE) | reduction.inexact
            pair = (full, reduction.system)
            found = numerics.hinf_error(*(system.of_groups(near) for system in pair))
            exact = max(exact, found * _SLACK)
        added = numerics.mode_distance(reduction.system, stored)
        added += numerics.rounding_error(full) + numerics.rounding_error(stored)
        added += numerics.rounding_error(reduction.system)
        if not math.isfinite(added):
            self.notes += ("no bound: eigenvalues are on the unit circle but for rounding",)
            return
        self.bound = exact + added
        if added > max(exact, _MUCH * float(reduction.sigma.max())):
            self.notes += (
                f"rounding of what is stored takes {added:.2g} of the bound: eigenvalues come "
                f"within {float(numerics.width(stored.A).min()):.1g} of the unit circle",
            )
