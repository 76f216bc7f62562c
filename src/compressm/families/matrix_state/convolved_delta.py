"""What delta-rule layers of transformers share: one convolution, SiLU, unit length, a gated norm.

    q, k, v = silu(conv(W x)),   q and k of length one in every key head, q times 1/sqrt(N)
    y = W_o (norm(o) g)          with the norm of each value head and a gate g of x

Nothing can be folded into the rows of W, so states (key dimensions) are selected, the same number
in each of the G key heads: rows of the projections and channels of the convolution. A key head
serves J value heads of V values.

The scale 1/sqrt(N) on queries changes with the cut. It is not made up for: the norm of each value
head's output, before the gate, takes out every factor that queries have, but for its epsilon.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.matrix_state.adapter import NO_STEPS, MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue
from compressm.families.matrix_state.gates import gate_of, require_silu
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.recurrences import DeltaRule
from compressm.numerics.matrix_state.signals import Signals
from compressm.ops import normalised

_ROLES: tuple[Role, ...] = ("read", "write")


class ConvolvedDeltaLayer(MatrixStateLayer):
    """One layer, read once; a subclass says how it makes what enters the convolution, and gates.

    Attributes:
        norm: what it calls the norm of a head's output.
    """

    recurrence: ClassVar = DeltaRule()
    no_growth: str | None = (
        "behind their L2 norm queries are divided by the root of the number of states; no "
        "parameter makes up for that, and the norm of the output does so but for its epsilon"
    )
    norm: ClassVar[str]

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        require_silu(module)
        channels = layout.parameters["conv1d.weight"]
        self.groups = self.blocks = channels.groups
        self.width = len(self.p[f"{self.norm}.weight"])
        self.heads = channels.tail // (self.groups * self.width)
        self.norms = self.groups * self.heads
        norm = module.get_submodule(self.norm)
        self.gate = gate_of(module, norm)
        self.eps = float(getattr(norm, "variance_epsilon", 1e-6))

    @abstractmethod
    def projected(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, keys and values side by side (B, L, channels), and z (B, L, G J V)."""

    @abstractmethod
    def rates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log a_t and b_t, as in `Signals`, for inputs (B, L, width)."""

    @final
    def linear(self, name: str, u: Tensor) -> Tensor:
        """A map of the layer."""
        weight = self.p[f"{name}.weight"].to(self.dtype)
        return functional.linear(u, weight, self.parameter(f"{name}.bias"))

    @final
    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        u, counts = self.counted(hidden, mask)
        (qkv, z), (decay, beta) = self.projected(u), self.rates(u)
        shared = self.groups * self.state_dim
        sizes = [shared, shared, self.groups * self.heads * self.width]
        q, k, v = torch.split(self._convolved(qkv, slice(None)), sizes, -1)
        by_head = (*hidden.shape[:2], self.groups, self.heads, self.width)
        return Signals(
            queries=self._unit(q) * self.state_dim**-0.5,
            keys=self._unit(k),
            values=v.reshape(by_head),
            decay=decay,
            beta=beta,
            gate=self.gate(z).reshape(by_head),
            mask=counts,
        )

    def _convolved(self, rows: Tensor, channels: Tensor | slice) -> Tensor:
        kernel, bias = self.p["conv1d.weight"].to(self.dtype), self.parameter("conv1d.bias")
        kernel, bias = kernel[channels], None if bias is None else bias[channels]
        padded = functional.pad(rows.mT, (kernel.shape[-1] - 1, 0))
        return functional.silu(functional.conv1d(padded, kernel, bias, groups=len(kernel)).mT)

    def _unit(self, rows: Tensor) -> Tensor:
        """(B, L, G N) as (B, L, G, N), of length one in each group."""
        return normalised(rows.reshape(*rows.shape[:2], self.groups, -1))

    @final
    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        return hidden.to(self.dtype) * s.mask[..., None].to(self.dtype)

    @final
    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        axis, made = self.layout.parameters["conv1d.weight"], []
        for part, own in zip(self.parts(), rows, strict=True):
            bias = self.parameter(part.name.replace("weight", "bias"))
            made_rows = functional.linear(inputs, own, None if bias is None else bias[part.at])
            channels = axis.rows(part.role, self.state_dim).to(inputs.device)
            made.append(self._unit(self._convolved(made_rows, channels)))
        return made[0], made[1] * self.state_dim**-0.5

    @final
    def activations(self, s: Signals, y: Tensor) -> Tensor:
        u = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (u * self.p[f"{self.norm}.weight"].to(self.dtype) * s.gate).flatten(2)

    @final
    def beside(self, hidden: Tensor) -> Tensor | None:
        return None

    @property
    @final
    def out_weight(self) -> Tensor:
        gains = self.p[f"{self.norm}.weight"].repeat(self.groups * self.heads)
        return self.p[f"{self.out_map}.weight"].to(self.dtype) * gains.to(self.dtype)

    @final
    def changes(self, choice: Choice) -> dict[str, NewValue]:
        return self.selected(choice)


class ConvolvedDeltaAdapter(MatrixStateAdapter):
    """Base of the families.

    Attributes:
        reads: the class of a layer that was read.
    """

    reads: ClassVar[type[ConvolvedDeltaLayer]]
    default = "elimination-fit"
    lacking: ClassVar = NO_STEPS | dict.fromkeys(
        ("greedy-refit", "greedy-weights", "greedy-weights-scan", "greedy-weights-gradient"),
        "a convolution, SiLU and a norm stand between the projection and the queries",
    )

    @final
    def state_bytes(self, module: nn.Module) -> int:
        kernel = module.get_parameter("conv1d.weight")
        axis = self.layout(module).parameters["conv1d.weight"]
        # A state of every value, and what the convolution remembers of its rows of q and k.
        return (axis.tail + 2 * axis.groups * kernel.shape[-1]) * kernel.element_size()

    @final
    def read(self, module: nn.Module) -> MatrixStateLayer:
        return self.reads(module, self.layout(module))


def channels_of(groups: int, values: int) -> StateAxis:
    """Channels of the convolution: queries and keys of all groups, then values."""
    return StateAxis(0, roles=_ROLES, groups=groups, tail=values)


def separate_axes(module: nn.Module, groups: int, values: int) -> dict[str, StateAxis]:
    """Where the states are in `q_proj`, `k_proj` and the convolution behind them."""
    channels = channels_of(groups, values)
    axes = {
        "q_proj.weight": StateAxis(0, roles=("read",), groups=groups),
        "k_proj.weight": StateAxis(0, roles=("write",), groups=groups),
        "conv1d.weight": channels,
        "conv1d.bias": channels,
    }
    has = dict(module.named_parameters())
    return {name: axis for name, axis in axes.items() if name in has}
