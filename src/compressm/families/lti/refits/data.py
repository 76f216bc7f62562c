"""The readout that fits the full layer's output on real inputs best."""

from __future__ import annotations

from typing import final

from torch import nn

from compressm import numerics
from compressm.families.lti.both_ways import Inputs
from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.refits.base import Refit
from compressm.numerics import Reduction


@final
class DataRefit(Refit):
    """Ridge least squares on recorded states of the full and the reduced system."""

    label = "least squares on data"
    needs = "data"
    probe: DrivenStates

    def watch(self, inputs: Inputs, module: nn.Module) -> DrivenStates:
        joint = numerics.stack(self.measured.system, self.reduction.system)
        return DrivenStates(inputs, module, joint)

    def finish(self) -> Reduction:
        full, before = self.measured.system, self.reduction.system
        if self.probe.missing:
            self.notes += (f"not refitted on data: {self.probe.missing}",)
            return self.reduction
        self.joint = self.probe.states.moment
        after = numerics.data_refit(full, before, self.joint)
        errors = (numerics.output_error(full, system, self.joint) for system in (before, after))
        self.judge("the refit on data", *errors)
        return numerics.with_system(self.reduction, after)
