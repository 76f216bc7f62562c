"""S4D layers (Gu et al. 2022, arXiv 2206.11893, section 3): y = 2 Re(c·x) + D u, zero-order hold or
the bilinear rule."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from compressm.families.base import register_adapter
from compressm.families.lti.channelwise import ChannelAdapter
from compressm.families.structure import Tensors
from compressm.nn import S4D
from compressm.numerics import DISCRETISATIONS, undiscretise


@final
@register_adapter(S4D)
class S4DAdapter(ChannelAdapter):
    """Per-channel balancing or selection of modes, one rank for all channels."""

    family = "S4D"
    poles, readout, factor = ("log_A_real", "A_imag"), ("C_re", "C_im"), 2.0
    tensors = Tensors(needed=(*poles, *readout, "log_dt", "D"))

    def forth(self, module: nn.Module, A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(module, S4D)
        return DISCRETISATIONS[module.discretisation].forth(A, step)

    def back(self, module: nn.Module, poles: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(module, S4D)
        return undiscretise(poles, step, module.discretisation)
