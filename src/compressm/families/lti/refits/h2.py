"""The readout of least H2 error, in closed form."""

from __future__ import annotations

from typing import final

from torch import nn

from compressm import numerics
from compressm.families.lti.both_ways import Inputs
from compressm.families.lti.refits.base import Refit
from compressm.numerics import Reduction


@final
class H2Refit(Refit):
    """C' = C X P_r^{-1} with moments of white noise."""

    label = "H2-optimal"

    def watch(self, inputs: Inputs, module: nn.Module) -> None:
        return None

    def finish(self) -> Reduction:
        full, before = self.measured.system, self.reduction.system
        after = numerics.h2_refit(full, before)
        P = self.measured.white
        size = numerics.h2_norm(full, P=P)
        if size > 0:
            errors = (numerics.h2_error(full, system, P=P) / size for system in (before, after))
            self.judge("the H2 refit", *errors)
        return numerics.with_system(self.reduction, after)
