"""An adapter for `mambapy`: its MambaBlock without norms inside."""

from typing import ClassVar

import torch
from torch.nn import functional

from compressm import register_adapter
from compressm.families import (
    ChannelDecay,
    Layout,
    MatrixStateAdapter,
    MatrixStateLayer,
    Signals,
    StateAxis,
    Tensors,
)


class Block(MatrixStateLayer):
    recurrence = ChannelDecay()
    made_by = ("x_proj.weight",)
    weighed = "x_proj.weight"
    mixable = True

    def linear(self, name, inputs):
        weight = self.parameter(f"{name}.weight")
        return functional.linear(inputs, weight, self.parameter(f"{name}.bias"))

    def signals(self, hidden, mask):
        counts = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask > 0
        x, z = self.linear("in_proj", hidden.to(self.dtype)).chunk(2, -1)
        kernel, bias = self.parameter("conv1d.weight"), self.parameter("conv1d.bias")
        x = functional.pad(x.mT, (kernel.shape[-1] - 1, 0))
        x = functional.silu(functional.conv1d(x, kernel, bias, groups=len(kernel))).mT
        N, rank = self.state_dim, self.p["dt_proj.weight"].shape[1]
        dt, B, C = self.linear("x_proj", x).split([rank, N, N], -1)
        return Signals(  # one group, whose heads are the channels, of one value each
            values=x[:, :, None, :, None],
            steps=functional.softplus(self.linear("dt_proj", dt))[:, :, None],
            decay=-self.parameter("A_log").exp()[None],
            keys=B[:, :, None],
            queries=C[:, :, None],
            gate=functional.silu(z)[:, :, None, :, None],
            mask=counts,
        )

    def row_inputs(self, hidden, s):
        return s.values[:, :, 0, :, 0]

    def keys_and_queries(self, rows, inputs, mask):
        keys, queries = (functional.linear(inputs, own)[:, :, None] for own in rows)
        return keys, queries

    def activations(self, s, y):
        through = y + self.parameter("D")[None, None, None, :, None] * s.values
        return (through * s.gate).flatten(2)

    def beside(self, hidden):
        return None

    @property
    def out_weight(self):
        return self.parameter("out_proj.weight")

    def changes(self, choice):
        return self.selected(choice)


@register_adapter("mambapy.mamba.MambaBlock")
class MambaPyAdapter(MatrixStateAdapter):
    family = "mambapy"
    config_keys = ("d_state",)
    arguments = ("x",)
    maps = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
    tensors = Tensors(
        needed=("A_log", "D", *(f"{name}.weight" for name in maps)),
        optional=tuple(f"{name}.bias" for name in maps),
    )
    lacking: ClassVar = dict.fromkeys(
        ("elimination-fit", "elimination", "pivoted-qr", "strong-rrqr", "energy"),
        "it looks at keys and queries alone, and here every state has decays of its own",
    )

    def layout(self, module):
        rank = module.dt_proj.weight.shape[1]
        return Layout(
            parameters={
                "A_log": StateAxis(1, roles=("decay",)),
                "x_proj.weight": StateAxis(0, roles=("write", "read"), lead=rank),
            },
            sizes={"config.d_state": 1},  # the block reads it in forward
        )

    def state_bytes(self, module):
        return len(module.A_log) * module.A_log.element_size()

    def read(self, module):
        return Block(module, self.layout(module))
