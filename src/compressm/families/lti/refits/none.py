"""The system as the truncation made it."""

from __future__ import annotations

from typing import final

from torch import nn

from compressm.families.lti.both_ways import Inputs
from compressm.families.lti.refits.base import Refit
from compressm.numerics import Reduction


@final
class NoRefit(Refit):
    """Nothing is fitted, and the bound of the truncation holds."""

    label = "none"
    bounded = True

    def watch(self, inputs: Inputs, module: nn.Module) -> None:
        return None

    def finish(self) -> Reduction:
        return self.reduction
