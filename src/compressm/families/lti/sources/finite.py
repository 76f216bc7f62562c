"""White noise for as long as the data last."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.sources.base import Source, WhiteNoise


@final
class Finite(Source):
    """P = Σ_{k<L} A^k B B* (A*)^k, or Q = Σ_{k<L} (A*)^k C* C A^k; L is the longest sequence seen.

    What states do after the last step of any sequence counts for nothing here.
    """

    label = "white noise, L steps"
    kind = "finite"
    needs = "data"

    def gramian(self, white: WhiteNoise, driven: DrivenStates | None) -> Tensor:
        assert driven is not None
        return white(driven.length) if driven.length else torch.zeros_like(white(None))
