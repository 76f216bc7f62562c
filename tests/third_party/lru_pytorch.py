"""An adapter for `lru-pytorch`: complex B and C, and a state that it keeps as an attribute."""

import math

import torch

from compressm import register_adapter
from compressm.families import (
    Edit,
    Layout,
    LinearAdapter,
    Project,
    Reset,
    Selection,
    StateAxis,
    StateCost,
    StateSpace,
    Tensors,
    kept_length,
    kept_states,
    written,
)

POLES = ("nu_log", "theta_log", "gamma_log")


@register_adapter("LRU_pytorch.LRU.LRU")
class LRUAdapter(LinearAdapter):
    family = "lru-pytorch"
    tensors = Tensors(needed=(*POLES, "B", "C", "D"))

    def layout(self, module):
        return Layout(
            parameters={
                **dict.fromkeys(POLES, StateAxis(0)),
                "B": StateAxis(0, roles=("write",)),
                "C": StateAxis(1, roles=("read",)),
            },
            buffers={"state": lambda states: torch.zeros(states, dtype=torch.complex64)},
        )

    def cost(self, module):
        parameters = self.layout(module).parameters_per_state(module)
        return StateCost(parameters=parameters, state_bytes=module.B.element_size())

    def inputs(self, args, kwargs):
        return (args[0] if args else kwargs["input"]), None

    @torch.no_grad()
    def read(self, module):
        p = {name: value.detach().cpu() for name, value in module.named_parameters()}
        nu, theta, gamma = (p[name].double().exp() for name in POLES)
        B, C = (p[name].to(torch.complex128) for name in "BC")
        A = torch.exp(torch.complex(-nu, theta))
        return StateSpace(A=A, B=gamma[:, None] * B, C=C, D=p["D"].double(), real_output=True)

    @torch.no_grad()
    def write(self, module, reduction):
        system, indices = reduction.system, reduction.indices
        if indices is not None:
            poles = kept_states(module, (*POLES, "B"), indices, 0)
            rule = Selection(indices, 1)
            return [poles, Edit(module=module, names=("C",), values=(system.C,), transport=rule)]
        size, turn = system.A.abs().clamp(1e-12, 1 - 1e-12), system.A.angle() % (2 * math.pi)
        gamma = (1 - size.square()).sqrt()
        lengths = torch.linalg.vector_norm(module.B.cpu().to(torch.complex128), dim=1)
        new = written(
            reduction,
            scale=kept_length(system.B, gamma, lengths),
            gain=gamma,
            old_gain=module.gamma_log.cpu().double().exp(),
        )
        # Phase zero has no logarithm; a full turn is the same.
        turn = torch.where(turn < 1e-6, 2 * math.pi, turn)
        poles = (-size.log()).log(), turn.log(), gamma.log()
        rows, columns = Project(new.b_matrix, 0), Project(new.c_matrix, 1)
        return [
            Edit(module=module, names=POLES, values=poles, transport=Reset()),
            Edit(module=module, names=("B",), values=(new.B,), transport=rows),
            Edit(module=module, names=("C",), values=(new.C,), transport=columns),
        ]
