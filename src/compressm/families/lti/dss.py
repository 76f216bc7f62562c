"""DSS layers (Gupta et al. 2022, arXiv 2203.14343, proposition 1): y = Re(w·x) + D u.

The variant softmax divides the gain of a state by the sum of its exponentials over a fixed length,
a number that follows from its pole.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from compressm.families.base import register_adapter
from compressm.families.lti.channelwise import ChannelAdapter
from compressm.families.structure import Tensors
from compressm.nn import DSS
from compressm.nn.dss import softmax_gain
from compressm.numerics import DISCRETISATIONS, undiscretise


@final
@register_adapter(DSS)
class DSSAdapter(ChannelAdapter):
    """As S4D: per-channel balancing or selection of modes, one rank for all channels."""

    family = "DSS"
    poles, readout, factor = ("Lambda_re", "Lambda_im"), ("W_re", "W_im"), 1.0
    tensors = Tensors(needed=(*poles, *readout, "log_dt", "D"))

    def forth(self, module: nn.Module, A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(module, DSS)
        poles, gain = DISCRETISATIONS["zoh"].forth(A, step)
        return poles, softmax_gain(gain, A * step, module.length)

    def back(self, module: nn.Module, poles: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(module, DSS)
        A, gain = undiscretise(poles, step, "zoh")
        return A, softmax_gain(gain, A * step, module.length)
