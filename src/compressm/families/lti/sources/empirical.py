"""The states that real inputs drive."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.sources.base import Source


@final
class Empirical(Source):
    """P = E[x x*] over the calibration data."""

    label = "real inputs"
    kind = "empirical"
    needs = "data"

    def gramian(self, white: Callable[[], Tensor], driven: DrivenStates | None) -> Tensor:
        assert driven is not None
        return torch.zeros_like(white()) if driven.missing else driven.states.moment
