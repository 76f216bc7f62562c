"""S4D layers: one diagonal system in continuous time for each channel.

N states of a channel, r kept states, H channels. The layer stores A, the readout c and a step Δ for
each channel, x' = A x + u sampled by zero-order hold or the bilinear rule, y = 2 Re(c·x) + D u (Gu
et al. 2022, arXiv 2206.11893, section 3). Channels are groups: each is balanced by itself, and all
keep the same number. Inputs are ones, so the scale of a state is fixed, phase and all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from compressm.edits import Edit, Project, Reset, Selection
from compressm.families.base import register_adapter
from compressm.families.layout import Layout, StateAxis
from compressm.families.lti.adapter import LinearAdapter
from compressm.families.lti.traced import doubles
from compressm.families.lti.writing import kept_states, unit_inputs, written
from compressm.families.structure import Tensors
from compressm.nn import S4D
from compressm.numerics import DISCRETISATIONS, Reduction, StateSpace, undiscretise
from compressm.spectrum import StateCost

_POLES, _C = ("log_A_real", "A_imag"), ("C_re", "C_im")


@final
@register_adapter(S4D)
class S4DAdapter(LinearAdapter):
    """Per-channel balancing or selection of modes, one rank for all channels."""

    family = "S4D"
    tensors = Tensors(needed=(*_POLES, *_C, "log_dt", "D"))

    def layout(self, module: nn.Module) -> Layout:
        readout = dict.fromkeys(_C, StateAxis(1, roles=("read",)))
        return Layout(parameters=dict.fromkeys(_POLES, StateAxis(1)) | readout)

    def cost(self, module: nn.Module) -> StateCost:
        assert isinstance(module, S4D)
        return StateCost(
            parameters=self.layout(module).parameters_per_state(module),
            state_bytes=2 * module.width * module.D.element_size(),
        )

    def inputs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        given = dict(zip(("u", "mask"), args, strict=False)) | dict(kwargs)
        return given["u"], given.get("mask")

    @torch.no_grad()
    def read(self, module: nn.Module) -> StateSpace:
        return self.system(module, doubles(module))

    def system(self, module: nn.Module, p: Mapping[str, Tensor]) -> StateSpace:
        assert isinstance(module, S4D)
        A, step = torch.complex(-p["log_A_real"].exp(), p["A_imag"]), p["log_dt"].exp()[:, None]
        poles, gain = DISCRETISATIONS[module.discretisation].forth(A, step)
        C = 2 * torch.complex(p["C_re"], p["C_im"])
        return StateSpace(
            A=poles, B=gain[..., None], C=C[:, None], D=p["D"][:, None], real_output=True
        )

    @torch.no_grad()
    def write(self, module: nn.Module, reduction: Reduction) -> list[Edit]:
        assert isinstance(module, S4D)
        reduced, indices = reduction.system, reduction.indices
        if indices is not None:
            poles = kept_states(module, _POLES, indices, 1)
            C, follow = reduced.C, Selection(indices, 1)
            return [poles, _readout(module, C, follow)]
        A, gain = undiscretise(reduced.A, _steps(module), module.discretisation)
        new = written(
            reduction,
            scale=unit_inputs(reduced.B, gain),
            gain=gain,
            old_gain=self.read(module).B[..., 0],
        )
        values = ((-A.real).log(), A.imag)
        return [
            Edit(module=module, names=_POLES, values=values, transport=Reset()),
            _readout(module, new.C, Project(new.c_matrix, 1)),
        ]


def _steps(module: S4D) -> Tensor:
    """Δ of each channel, (H, 1)."""
    return module.log_dt.detach().cpu().double().exp()[:, None]


def _readout(module: S4D, C: Tensor, follow: Selection | Project) -> Edit:
    c = C[:, 0] / 2
    return Edit(module=module, names=_C, values=(c.real, c.imag), transport=follow)
