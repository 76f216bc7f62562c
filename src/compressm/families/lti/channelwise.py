"""Layers of one diagonal system in continuous time for each channel: S4D, DSS.

N states of a channel, r kept states, H channels. Such a layer stores Λ = -exp(a) + i w, a readout c
and a step Δ for each channel; a rule makes the recurrence x_k = λ x_{k-1} + g u_k of them, and
y = Re(f c·x) + D u with a constant f. Channels are groups: each is balanced by itself, and all keep
the same number. Inputs are ones, so the scale of a state is fixed, phase and all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from compressm.edits import Edit, Project, Reset, Selection
from compressm.families.layout import Layout, StateAxis
from compressm.families.lti.own_layers import OwnLinearAdapter
from compressm.families.lti.traced import doubles
from compressm.families.lti.writing import kept_states, read_states, unit_inputs, written
from compressm.numerics import Reduction, StateSpace


class ChannelAdapter(OwnLinearAdapter):
    """Base of these families.

    Attributes:
        poles: the parameters a and w, (H, N) each.
        readout: the real and imaginary part of c, (H, N) each.
        factor: f.
    """

    poles: ClassVar[tuple[str, str]]
    readout: ClassVar[tuple[str, str]]
    factor: ClassVar[float]

    @abstractmethod
    def forth(self, module: nn.Module, A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """λ and g, (H, N) complex128, of Λ (H, N) and Δ (H, 1); gradients flow."""

    @abstractmethod
    def back(self, module: nn.Module, poles: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Λ and g of given λ."""

    @final
    def layout(self, module: nn.Module) -> Layout:
        readout = dict.fromkeys(self.readout, StateAxis(1, roles=("read",)))
        return Layout(parameters=dict.fromkeys(self.poles, StateAxis(1)) | readout)

    @final
    @torch.no_grad()
    def read(self, module: nn.Module) -> StateSpace:
        return self.system(module, doubles(module))

    @final
    def system(self, module: nn.Module, p: Mapping[str, Tensor]) -> StateSpace:
        a, w = (p[name] for name in self.poles)
        re, im = (p[name] for name in self.readout)
        poles, gain = self.forth(module, torch.complex(-a.exp(), w), p["log_dt"].exp()[:, None])
        C = self.factor * torch.complex(re, im)[:, None]
        return StateSpace(A=poles, B=gain[..., None], C=C, D=p["D"][:, None], real_output=True)

    @final
    @torch.no_grad()
    def write(self, module: nn.Module, reduction: Reduction) -> list[Edit]:
        reduced, indices = reduction.system, reduction.indices
        if indices is not None:
            poles = kept_states(module, self.poles, indices, 1)
            return [poles, self._readout(module, reduced.C, read_states(reduction, 1))]
        A, gain = self.back(module, reduced.A, doubles(module)["log_dt"].exp()[:, None])
        new = written(
            reduction,
            scale=unit_inputs(reduced.B, gain),
            gain=gain,
            old_gain=self.read(module).B[..., 0],
        )
        values = ((-A.real).log(), A.imag)
        return [
            Edit(module=module, names=self.poles, values=values, transport=Reset()),
            self._readout(module, new.C, Project(new.c_matrix, 1)),
        ]

    @final
    def _readout(self, module: nn.Module, C: Tensor, follow: Selection | Project) -> Edit:
        c = C[:, 0] / self.factor
        return Edit(module=module, names=self.readout, values=(c.real, c.imag), transport=follow)
