"""S5 layers: shared diagonal dynamics in continuous time, a step for each state, real output.

N states, r kept states, H width. The layer stores Λ, steps Δ and B, C with x' = Λ x + B u sampled
by zero-order hold or the bilinear rule, y = 2 Re(C x) + D u (Smith et al. 2023, arXiv 2208.04933,
section 3); both ways, with a second readout of the reversed sequence. Any basis fits after
diagonalisation; λ goes back to Λ under the steps that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from compressm.edits import Edit, Project, Reset, Transport
from compressm.families.base import register_adapter
from compressm.families.layout import Layout, StateAxis
from compressm.families.lti.own_layers import OwnLinearAdapter
from compressm.families.lti.traced import doubles
from compressm.families.lti.writing import kept_length, kept_states, read_states, written
from compressm.families.structure import Tensors
from compressm.nn import S5
from compressm.nn.continuous import MARGIN, stable
from compressm.numerics import DISCRETISATIONS, Reduction, StateSpace, undiscretise, width

_POLES, _B, _C = ("Lambda_re", "Lambda_im", "log_step"), ("B_re", "B_im"), ("C_re", "C_im")
_BACK = ("C2_re", "C2_im")


@final
@register_adapter(S5)
class S5Adapter(OwnLinearAdapter):
    """Any balanced basis or selection of modes fits an S5 after diagonalisation."""

    family = "S5"
    tensors = Tensors(needed=(*_POLES, *_B, *_C, "D"), optional=_BACK)

    def layout(self, module: nn.Module) -> Layout:
        assert isinstance(module, S5)
        columns = (*_C, *(_BACK if module.bidirectional else ()))
        poles = dict.fromkeys(_POLES, StateAxis(0))
        rows = dict.fromkeys(_B, StateAxis(0, roles=("write",)))
        read = dict.fromkeys(columns, StateAxis(1, roles=("read",)))
        return Layout(parameters=poles | rows | read)

    @torch.no_grad()
    def read(self, module: nn.Module) -> StateSpace:
        return self.system(module, doubles(module))

    def system(self, module: nn.Module, p: Mapping[str, Tensor]) -> StateSpace:
        assert isinstance(module, S5)
        poles, gain = _discrete(module, p)
        C, D = 2 * torch.complex(p["C_re"], p["C_im"]), p["D"]
        if module.bidirectional:
            C = 2 * torch.cat([C, 2 * torch.complex(*(p[name] for name in _BACK))])
            D = torch.cat([2 * torch.diag(D), torch.zeros_like(torch.diag(D))])
        return StateSpace(
            A=poles,
            B=gain[:, None] * torch.complex(p["B_re"], p["B_im"]),
            C=C,
            D=D,
            real_output=True,
            both_ways=module.bidirectional,
        )

    @torch.no_grad()
    def write(self, module: nn.Module, reduction: Reduction) -> list[Edit]:
        assert isinstance(module, S5)
        reduced, indices = reduction.system, reduction.indices
        if indices is not None:
            return [
                kept_states(module, (*_POLES, *_B), indices, 0),
                *_readouts(module, reduced.C, read_states(reduction, 1)),
            ]
        step = _steps(module, reduced.A)
        Lambda, gain = undiscretise(reduced.A, step, module.discretisation)
        rows = torch.cat([module.B_re, module.B_im], dim=1).detach().cpu().double().norm(dim=1)
        new = written(
            reduction,
            scale=kept_length(reduced.B, gain, rows),
            gain=gain,
            old_gain=_discrete(module, doubles(module))[1],
        )
        values = (Lambda.real, Lambda.imag, step.log())
        return [
            Edit(module=module, names=_POLES, values=values, transport=Reset()),
            _edit(module, _B, new.B, Project(new.b_matrix, 0)),
            *_readouts(module, new.C, Project(new.c_matrix, 1)),
        ]


def _discrete(module: S5, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """λ and the gain of the input, (N,) each."""
    Lambda = torch.complex(stable(p["Lambda_re"]), p["Lambda_im"])
    return DISCRETISATIONS[module.discretisation].forth(Lambda, p["log_step"].exp())


def _steps(module: S5, poles: Tensor) -> Tensor:
    """Steps (r,) for new poles: the geometric mean of what they were.

    Shorter where a state decays so slowly that Re Λ would come closer to zero than the layer
    allows.
    """
    usual = module.log_step.detach().cpu().double().mean().exp()
    return torch.minimum(usual, width(poles) / (2 * MARGIN))


def _readouts(module: S5, C: Tensor, transport: Transport) -> list[Edit]:
    if not module.bidirectional:
        return [_edit(module, _C, C / 2, transport)]
    there, back = (C / 4).chunk(2)
    return [_edit(module, _C, there, transport), _edit(module, _BACK, back, transport)]


def _edit(module: S5, names: tuple[str, str], value: Tensor, transport: Transport) -> Edit:
    return Edit(module=module, names=names, values=(value.real, value.imag), transport=transport)
