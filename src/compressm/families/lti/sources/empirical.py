"""The states that real inputs drive."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.sources.base import Source, WhiteNoise


@final
class Empirical(Source):
    """P = E[x x*] over the calibration data."""

    label = "real inputs"
    kind = "empirical"
    needs = "data"

    def gramian(self, white: WhiteNoise, driven: DrivenStates | None) -> Tensor:
        assert driven is not None
        return torch.zeros_like(white(None)) if driven.missing else driven.states.moment
