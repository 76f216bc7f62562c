"""An adapter for `s5-pytorch`: its S5, whose `seq` (S5SSM) stores Lambda, B, C, D and log_step.

Of S5 and not of S5SSM, which sees one sequence at a time under `torch.vmap`, where nothing can be
recorded. B holds real and imaginary parts along its last axis; Lambda and C are complex.
"""

import torch

from compressm import register_adapter
from compressm.errors import InputError
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
    discretise,
    kept_length,
    kept_states,
    undiscretise,
    written,
)

POLES, B, C = ("seq.Lambda", "seq.log_step"), "seq.B", "seq.C"


@register_adapter("s5.s5_model.S5")
class S5Adapter(LinearAdapter):
    family = "s5-pytorch"
    tensors = Tensors(needed=(*POLES, B, C, "seq.D"))

    def layout(self, module):
        return Layout(
            parameters={
                **dict.fromkeys(POLES, StateAxis(0)),
                B: StateAxis(0, roles=("write",)),
                C: StateAxis(1, roles=("read",)),
            }
        )

    def cost(self, module):
        parameters = self.layout(module).parameters_per_state(module)
        return StateCost(parameters=parameters, state_bytes=module.seq.C.element_size())

    def inputs(self, args, kwargs):
        return (args[0] if args else kwargs["signal"]), None

    def rule(self, module):
        return module.seq.discretize.__name__.removeprefix("discretize_")

    def steps(self, module):
        return module.seq.log_step.detach().cpu().double().exp()

    @torch.no_grad()
    def read(self, module):
        seq = module.seq
        if seq.bidir or seq.liquid or seq.degree != 1:
            raise InputError("model: an S5 that is bidirectional, liquid or of a degree is no LTI")
        A, gain = discretise(seq.Lambda.cpu(), self.steps(module), self.rule(module))
        rows = torch.view_as_complex(seq.B.cpu().double().contiguous())
        readout, through = seq.C.cpu().to(torch.complex128), seq.D.cpu().double()
        return StateSpace(A=A, B=gain[:, None] * rows, C=readout, D=through, real_output=True)

    @torch.no_grad()
    def write(self, module, reduction):
        system, indices = reduction.system, reduction.indices
        if indices is not None:
            poles = kept_states(module, (*POLES, B), indices, 0)
            rule = Selection(indices, 1)
            return [poles, Edit(module=module, names=(C,), values=(system.C,), transport=rule)]
        step = self.steps(module).log().mean().exp().expand(len(system.A))
        A, gain = undiscretise(system.A, step, self.rule(module))
        lengths = module.seq.B.cpu().double().flatten(1).norm(dim=1)
        old = discretise(module.seq.Lambda.cpu(), self.steps(module), self.rule(module))[1]
        scale = kept_length(system.B, gain, lengths)
        new = written(reduction, scale=scale, gain=gain, old_gain=old)
        poles = A, step.log()
        rows, along = torch.view_as_real(new.B), Project(new.b_matrix, 0, pairs=True)
        return [
            Edit(module=module, names=POLES, values=poles, transport=Reset()),
            Edit(module=module, names=(B,), values=(rows,), transport=along),
            Edit(module=module, names=(C,), values=(new.C,), transport=Project(new.c_matrix, 1)),
        ]
