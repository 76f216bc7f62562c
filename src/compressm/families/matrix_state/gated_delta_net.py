"""Gated DeltaNet layers of transformers: the delta rule with one decay for each value head.

A projection makes queries, keys and values, which pass a convolution for each channel and SiLU;
queries and keys then get length one in every key head. So nothing can be folded into the rows, and
states (key dimensions) are selected, the same number in each of the G key heads: rows of the
projection and channels of the convolution. A key head serves J value heads of V values.

The scale 1/sqrt(N) on queries changes with the cut. It is not made up for: the norm of each value
head's output, before the gate, takes out every factor that queries have, but for its epsilon.

Source: Yang et al. 2024 (arXiv 2412.06464).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError
from compressm.families.base import register_adapter
from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.matrix_state.adapter import MatrixStateAdapter
from compressm.families.matrix_state.layer import Choice, MatrixStateLayer, NewValue
from compressm.families.matrix_state.recurrences import DeltaRule
from compressm.families.structure import Tensors
from compressm.numerics.matrix_state.signals import Signals

_STACKED, _INTERLEAVED = "in_proj_qkv.weight", "in_proj_qkvz.weight"
_GATES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "sigmoid": torch.sigmoid,
}


def _heads(module: Any) -> tuple[int, int, int]:
    """G key heads, J value heads of each, V values of a value head."""
    keys, values = int(module.num_k_heads), len(module.A_log)
    return keys, values // keys, len(module.norm.weight)


@final
class GatedDeltaNetLayer(MatrixStateLayer):
    """One mixer, read once."""

    recurrence: ClassVar = DeltaRule()

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        self.groups, self.heads, self.width = _heads(module)
        self.blocks = self.groups
        self.interleaved = _INTERLEAVED in self.p
        self.made_by = (_INTERLEAVED if self.interleaved else _STACKED,)
        gate = getattr(module.norm, "activation", "silu")
        if gate not in _GATES:
            raise InputError(f"model: the gate of {type(module).__name__} is {gate!r}, not known")
        self.gate = _GATES[gate]

    def _linear(self, name: str, inputs: Tensor) -> Tensor:
        weight = self.p[f"{name}.weight"].to(self.dtype)
        return functional.linear(inputs, weight, self.parameter(f"{name}.bias"))

    def _projected(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values side by side (B, L, channels); z, b and a by group."""
        N, values = self.state_dim, self.heads * self.width
        by_group = (*inputs.shape[:2], self.groups, -1)
        if not self.interleaved:
            names = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
            qkv, *rest = (self._linear(name, inputs) for name in names)
            return qkv, *(part.reshape(by_group) for part in rest)
        rows = self._linear("in_proj_qkvz", inputs).reshape(by_group)
        q, k, v, z = torch.split(rows, [N, N, values, values], -1)
        b, a = self._linear("in_proj_ba", inputs).reshape(by_group).chunk(2, -1)
        return torch.cat([part.flatten(2) for part in (q, k, v)], -1), z, b, a

    def _convolved(self, rows: Tensor, channels: Tensor | slice) -> Tensor:
        kernel, bias = self.p["conv1d.weight"].to(self.dtype), self.parameter("conv1d.bias")
        kernel, bias = kernel[channels], None if bias is None else bias[channels]
        padded = functional.pad(rows.mT, (kernel.shape[-1] - 1, 0))
        return functional.silu(functional.conv1d(padded, kernel, bias, groups=len(kernel)).mT)

    def _unit(self, rows: Tensor) -> Tensor:
        """(B, L, G N) as (B, L, G, N), of length one in each group."""
        by_group = rows.reshape(*rows.shape[:2], self.groups, -1)
        return by_group * torch.rsqrt(by_group.square().sum(-1, keepdim=True) + 1e-6)

    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        counts = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask > 0
        qkv, z, b, a = self._projected(hidden.to(self.dtype) * counts[..., None].to(self.dtype))
        shared = self.groups * self.state_dim
        sizes = [shared, shared, self.groups * self.heads * self.width]
        q, k, v = torch.split(self._convolved(qkv, slice(None)), sizes, -1)
        by_head = (*hidden.shape[:2], self.groups, self.heads, self.width)
        rate, bias = (self.p[n].to(self.dtype).view(self.groups, -1) for n in ("A_log", "dt_bias"))
        return Signals(
            queries=self._unit(q) * self.state_dim**-0.5,
            keys=self._unit(k),
            values=v.reshape(by_head),
            decay=(-rate.exp() * functional.softplus(a + bias))[..., None],
            beta=b.sigmoid(),
            gate=self.gate(z).reshape(by_head),
            mask=counts,
        )

    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        return hidden.to(self.dtype) * s.mask[..., None].to(self.dtype)

    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        axis, made = self.layout.parameters["conv1d.weight"], []
        roles: tuple[Role, ...] = ("write", "read")
        for part, own, role in zip(self.parts(), rows, roles, strict=True):
            bias = self.parameter(part.name.replace("weight", "bias"))
            made_rows = functional.linear(inputs, own, None if bias is None else bias[part.at])
            channels = axis.rows(role, self.state_dim).to(inputs.device)
            made.append(self._unit(self._convolved(made_rows, channels)))
        return made[0], made[1] * self.state_dim**-0.5

    def activations(self, s: Signals, y: Tensor) -> Tensor:
        eps = getattr(self.module.norm, "variance_epsilon", 1e-6)
        u = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        return (u * self.p["norm.weight"].to(self.dtype) * s.gate).flatten(2)

    def beside(self, hidden: Tensor) -> Tensor | None:
        return None

    @property
    def out_weight(self) -> Tensor:
        gains = self.p["norm.weight"].repeat(self.groups * self.heads)
        return self.p["out_proj.weight"].to(self.dtype) * gains.to(self.dtype)

    def changes(self, choice: Choice) -> dict[str, NewValue]:
        return self.selected(choice)


@final
@register_adapter(
    "transformers.models.qwen3_next.modeling_qwen3_next.Qwen3NextGatedDeltaNet",
    "transformers.models.qwen3_5.modeling_qwen3_5.Qwen3_5GatedDeltaNet",
    "transformers.models.qwen3_5_moe.modeling_qwen3_5_moe.Qwen3_5MoeGatedDeltaNet",
    "transformers.models.qwen4_exp.modeling_qwen4_exp.Qwen4ExpTextGatedDeltaNet",
)
class GatedDeltaNetAdapter(MatrixStateAdapter):
    """Selection of key dimensions in every key head; the rows that make them are fitted."""

    family = "Gated DeltaNet"
    config_keys = ("linear_key_head_dim",)
    default = "elimination-fit"
    tensors = Tensors(
        needed=("A_log", "dt_bias", "conv1d.weight", "norm.weight", "out_proj.weight"),
        optional=(
            *(_INTERLEAVED, "in_proj_ba.weight", _STACKED),
            *("in_proj_z.weight", "in_proj_b.weight", "in_proj_a.weight", "conv1d.bias"),
        ),
    )
    lacking: ClassVar = dict.fromkeys(
        ("greedy-refit", "greedy-weights", "greedy-weights-scan", "greedy-weights-gradient"),
        "a convolution, SiLU and a norm stand between the projection and the queries",
    ) | {"hankel": "it averages step sizes, and these layers have none"}

    def layout(self, module: nn.Module) -> Layout:
        groups, heads, width = _heads(module)
        roles: tuple[Role, ...] = ("read", "write")
        values = groups * heads * width
        channels = StateAxis(0, roles=roles, groups=groups, tail=values)
        rows = StateAxis(0, roles=roles, groups=groups, gap=2 * heads * width)
        axes = {_STACKED: channels, _INTERLEAVED: rows}
        axes |= dict.fromkeys(("conv1d.weight", "conv1d.bias"), channels)
        has = dict(module.named_parameters())
        return Layout(
            parameters={name: axis for name, axis in axes.items() if name in has},
            sizes={"head_k_dim": 1, "key_dim": groups, "conv_dim": "conv1d.weight"},
        )

    def state_bytes(self, module: nn.Module) -> int:
        groups, heads, width = _heads(module)
        kernel = module.get_parameter("conv1d.weight")
        # A state of every value, and what the convolution remembers of its rows of q and k.
        return groups * (heads * width + 2 * kernel.shape[-1]) * kernel.element_size()

    def read(self, module: nn.Module) -> MatrixStateLayer:
        return GatedDeltaNetLayer(module, self.layout(module))
