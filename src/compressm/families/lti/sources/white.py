"""White noise for all time: the closed form."""

from __future__ import annotations

from typing import final

from torch import Tensor

from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.sources.base import Source, WhiteNoise


@final
class White(Source):
    """P = A P A* + B B*, or Q = A* Q A + C* C."""

    label = "white noise"
    kind = "infinite"
    needs = "nothing"

    def gramian(self, white: WhiteNoise, driven: DrivenStates | None) -> Tensor:
        return white(None)
