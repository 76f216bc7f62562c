"""A layer of a third party, whose adapter says no more than it must."""

import torch
from torch import nn

from compressm import register_adapter
from compressm.edits import Edit, Reset
from compressm.families import Layout, StateAxis
from compressm.families.lti import LinearAdapter
from compressm.numerics import StateSpace
from compressm.spectrum import StateCost


class Stacked(nn.Module):
    """Real modes x_k = a x_{k-1} + B u_k, y = C x; B and C hold each state twice, signs apart."""

    def __init__(self, width, states):
        super().__init__()
        self.a = nn.Parameter(torch.empty(states).uniform_(0.2, 0.9))
        self.B = nn.Parameter(torch.randn(2 * states, width))
        self.C = nn.Parameter(torch.randn(width, 2 * states))

    def forward(self, u):
        x, outputs = 0, []
        for v in u.unbind(1):
            x = torch.cat([self.a, self.a]) * x + v @ self.B.T
            outputs.append(x @ self.C.T)
        return torch.stack(outputs, 1)


@register_adapter(Stacked)
class StackedAdapter(LinearAdapter):
    family = "stacked"

    def layout(self, module):
        both = ("state", "state")
        return Layout(
            parameters={
                "a": StateAxis(0),
                "B": StateAxis(0, roles=both),
                "C": StateAxis(1, roles=both),
            }
        )

    def cost(self, module):
        return StateCost(parameters=1 + 4 * module.B.shape[1], state_bytes=8)

    def inputs(self, args, kwargs):
        return args[0], None

    @torch.no_grad()
    def read(self, module):
        a, B, C = (p.cpu().double() for p in module.parameters())
        n = len(a)
        return StateSpace(A=a, B=B[:n], C=C[:, :n])

    @torch.no_grad()
    def write(self, module, reduction):
        s = reduction.system
        values = s.A.real, torch.cat([s.B.real] * 2), torch.cat([s.C.real] * 2, 1)
        return [Edit(module=module, names=("a", "B", "C"), values=values, transport=Reset())]
