"""What the loss asks of the states."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.sources.base import Source, WhiteNoise


@final
class Gradient(Source):
    """Q = E[g g*], g = dLoss/dx, over the calibration data."""

    label = "loss gradient"
    kind = "gradient"
    needs = "loss"

    def gramian(self, white: WhiteNoise, driven: DrivenStates | None) -> Tensor:
        assert driven is not None
        assert driven.adjoint is not None
        return torch.zeros_like(white(None)) if driven.missing else driven.adjoint.moment
