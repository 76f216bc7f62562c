"""LRU layers: shared diagonal dynamics, dense input and output matrices, real output.

N states, r kept states, H width. The layer stores λ = exp(-exp(ν) + i exp(θ)), a normalisation γ
and B, C with x_k = λ x_{k-1} + γ B u_k, y_k = Re(C x_k) + D u_k (Orvieto et al. 2023,
arXiv 2303.06349, section 3.3), so a reduced system must be diagonal, stable, and fit into that.
"""

from __future__ import annotations

import math
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
from compressm.nn import LRU
from compressm.numerics import Reduction, StateSpace, disc_defect, width

# A phase below this share of the width 1 - |λ| of its resonance changes nothing: the response is
# that of a real pole to ten digits.
_NO_PHASE = 1e-10
# A full turn stands for phase zero while what the dtype makes of it stays below this share of the
# width; nearer to the circle it would be another resonance.
_FULL_TURN = 1e-3
# exp(-exp(ν)) of a float32 layer is 0 or 1 beyond these, and the logarithms would be infinite.
_NU_LOG_RANGE = (-30.0, 4.0)
_B, _C = ("B_re", "B_im"), ("C_re", "C_im")


@final
@register_adapter(LRU)
class LRUAdapter(OwnLinearAdapter):
    """Any balanced basis or selection of modes fits an LRU after diagonalisation."""

    family = "LRU"
    tensors = Tensors(
        needed=("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
    )

    def layout(self, module: nn.Module) -> Layout:
        poles = dict.fromkeys(("nu_log", "theta_log", "gamma_log"), StateAxis(0))
        rows = dict.fromkeys(_B, StateAxis(0, roles=("write",)))
        columns = dict.fromkeys(_C, StateAxis(1, roles=("read",)))
        return Layout(parameters=poles | rows | columns)

    @torch.no_grad()
    def read(self, module: nn.Module) -> StateSpace:
        return self.system(module, doubles(module))

    def system(self, module: nn.Module, p: Mapping[str, Tensor]) -> StateSpace:
        lam = torch.exp(torch.complex(-p["nu_log"].exp(), p["theta_log"].exp()))
        return StateSpace(
            A=lam,
            B=p["gamma_log"].exp()[:, None] * torch.complex(p["B_re"], p["B_im"]),
            C=torch.complex(p["C_re"], p["C_im"]),
            D=p["D"],
            real_output=True,
        )

    @torch.no_grad()
    def write(self, module: nn.Module, reduction: Reduction) -> list[Edit]:
        assert isinstance(module, LRU)
        reduced, indices = reduction.system, reduction.indices
        if indices is not None:
            return [
                kept_states(module, ("nu_log", "theta_log", "gamma_log", *_B), indices, 0),
                _edit(module, _C, reduced.C, read_states(reduction, 1)),
            ]
        gamma = disc_defect(reduced.A).sqrt()
        rows = torch.cat([module.B_re, module.B_im], dim=1).detach().cpu().double().norm(dim=1)
        new = written(
            reduction,
            scale=kept_length(reduced.B, gamma, rows),
            gain=gamma,
            old_gain=module.gamma_log.detach().cpu().double().exp(),
        )
        poles = ("nu_log", "theta_log", "gamma_log")
        values = (*polar_logs(reduced.A, module.theta_log.dtype), gamma.log())
        return [
            Edit(module=module, names=poles, values=values, transport=Reset()),
            _edit(module, _B, new.B, Project(new.b_matrix, 0)),
            _edit(module, _C, new.C, Project(new.c_matrix, 1)),
        ]


def _edit(module: LRU, names: tuple[str, str], value: Tensor, transport: Transport) -> Edit:
    return Edit(module=module, names=names, values=(value.real, value.imag), transport=transport)


def polar_logs(lam: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """ν = log(-log|λ|) and log θ of poles λ (N,), θ in (0, 2π], for a layer that stores `dtype`.

    The logarithm keeps the relative accuracy of a phase, so a tiny one is stored as it is, however
    narrow its resonance. Phase zero has no logarithm. It is stored as 2π, from where training can
    move it; but exp(log 2π) is off by 2e-7 in float32, and by 0.01 in bfloat16. Where that is not
    small beside 1 - |λ|, a phase that is stands in for zero; its gradient is then as small.
    """
    decay = -torch.log1p(-disc_defect(lam)) / 2
    nu_log = decay.clamp_min(1e-300).log().clamp(*_NU_LOG_RANGE)
    room, full = width(lam), 2 * math.pi
    theta = lam.angle() % full
    stored = torch.tensor(full, dtype=torch.float64, device="cpu").log().to(dtype).double().exp()
    turn = float((stored - full).abs())
    real = torch.where(turn <= _FULL_TURN * room, full, _NO_PHASE * room)
    return nu_log, torch.where(theta <= _NO_PHASE * room, real, theta).log()
