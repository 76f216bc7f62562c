"""A layer of one small system for each channel (S4D), and its family: groups from end to end.

H channels, N states of each, r kept states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressm import register_adapter
from compressm.edits import Edit, Project, Reset
from compressm.families import Layout, StateAxis
from compressm.families.lti import LinearAdapter
from compressm.families.lti.writing import kept_states, read_states, unit_inputs, written
from compressm.numerics import StateSpace, discretise, undiscretise
from compressm.spectrum import StateCost

POLES, READOUT = ("log_decay", "frequency"), ("C_re", "C_im")


class Channels(nn.Module):
    """x' = Λ x + u held over steps Δ of each channel, y = Re(C x) + D u, Λ = -exp(a) + i w.

    The input matrix is one and no parameter: all freedom of a state is in Λ and C.
    """

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        log_steps = torch.empty(channels).uniform_(-1.2, -0.3)
        self.log_decay = nn.Parameter(-2.0 + 0.3 * torch.randn(channels, states))
        self.frequency = nn.Parameter(torch.arange(states) * torch.ones(channels, 1))
        self.C_re = nn.Parameter(torch.randn(channels, states))
        self.C_im = nn.Parameter(torch.randn(channels, states))
        self.log_step = nn.Parameter(log_steps[:, None])
        self.D = nn.Parameter(torch.randn(channels))

    def forward(self, u: Tensor) -> Tensor:
        Lambda = torch.complex(-self.log_decay.exp(), self.frequency)
        pole = torch.exp(self.log_step.exp() * Lambda)
        gain, C = (pole - 1) / Lambda, torch.complex(self.C_re, self.C_im)
        x, outputs = torch.zeros_like(pole), []
        for v in u.unbind(1):
            x = pole * x + gain * v[..., None]
            outputs.append((C * x).real.sum(-1) + self.D * v)
        return torch.stack(outputs, 1)


@register_adapter(Channels)
class ChannelsAdapter(LinearAdapter):
    family = "channels"

    def layout(self, module):
        readout = dict.fromkeys(READOUT, StateAxis(1, roles=("read",)))
        return Layout(parameters=dict.fromkeys(POLES, StateAxis(1)) | readout)

    def cost(self, module):
        channels = len(module.D)
        return StateCost(parameters=4 * channels, state_bytes=8 * channels)

    def inputs(self, args, kwargs):
        return (args[0] if args else kwargs["u"]), None

    def _steps(self, module):
        return module.log_step.detach().cpu().double().exp()

    @torch.no_grad()
    def read(self, module):
        p = {name: value.cpu().double() for name, value in module.named_parameters()}
        Lambda = torch.complex(-p["log_decay"].exp(), p["frequency"])
        pole, gain = discretise(Lambda, self._steps(module), "zoh")
        C = torch.complex(p["C_re"], p["C_im"])[:, None]
        return StateSpace(A=pole, B=gain[..., None], C=C, D=p["D"][:, None], real_output=True)

    @torch.no_grad()
    def write(self, module, reduction):
        s, indices = reduction.system, reduction.indices
        if indices is not None:
            poles = kept_states(module, POLES, indices, 1)
            C, follow = s.C, read_states(reduction, 1)
        else:
            Lambda, gain = undiscretise(s.A, self._steps(module), "zoh")
            full = self.read(module).B[..., 0]
            new = written(reduction, scale=unit_inputs(s.B, gain), gain=gain, old_gain=full)
            values = ((-Lambda.real).log(), Lambda.imag)
            poles = Edit(module=module, names=POLES, values=values, transport=Reset())
            C, follow = new.C, Project(new.c_matrix, 1)
        C = C.squeeze(1)
        return [
            poles,
            Edit(module=module, names=READOUT, values=(C.real, C.imag), transport=follow),
        ]
