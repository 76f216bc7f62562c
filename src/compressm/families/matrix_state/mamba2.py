"""Mamba-2 layers: one decay for each head, B_t and C_t shared by the heads of a group.

`in_proj` makes the rows [z | x | B | C | dt]; x, B and C then pass a convolution for each channel
and SiLU, so no weight can be folded into B or C. States are selected, the same number in every
group, by taking rows of `in_proj` and channels of the convolution. What the cut changes is made up
for in the map behind the gated norm: `out_proj` is fitted to the cut layer by least squares.

D channels (heads x head dimension), N states, G groups.
Source: Dao and Gu 2024 (arXiv 2405.21060).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError
from compressm.families.base import register_adapter
from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.matrix_state.adapter import MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.recurrences import HeadDecay
from compressm.families.structure import Tensors
from compressm.numerics.matrix_state.signals import Signals


def _groups(module: Any) -> int:
    return int(module.n_groups if hasattr(module, "n_groups") else module.ngroups)


def _channels(module: Any) -> int:
    """D; `out_proj` has more columns where a gated MLP shares the layer."""
    heads = len(module.get_parameter("A_log"))
    return heads * int(module.head_dim if hasattr(module, "head_dim") else module.headdim)


@final
class Mamba2Layer(MatrixStateLayer):
    """One mixer, read once."""

    recurrence: ClassVar = HeadDecay()
    made_by = ("in_proj.weight",)
    _first = False  # the norm, and the gate behind it
    no_growth: str | None = None

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        if "init_states" in self.p:
            raise InputError("model: Mamba-2 layers with learned initial states cannot be cut")
        self.groups, self.blocks = _groups(module), len(self.p["A_log"])
        self.channels = _channels(module)
        if "norm.weight" in self.p:
            norm: Any = module.norm
            self._first = bool(getattr(norm, "norm_before_gate", False))
            size = getattr(norm, "group_size", None)
            self.norms = self.channels // size if size else getattr(norm, "n_groups", 1)
        rows = len(self.p["in_proj.weight"])
        # Where a gated MLP shares the projection, its rows come first.
        self.ahead = rows - self.channels - len(self.p["conv1d.weight"]) - self.blocks
        self.act: Any = module.act
        limit = getattr(module, "time_step_limit", None) or getattr(module, "dt_limit", None)
        self.limit = (0.0, float("inf")) if limit is None else tuple(limit)

    def _by_channel(self, per_head: Tensor) -> Tensor:
        return per_head.repeat_interleave(self.channels // self.blocks, -1)

    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        counts = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask > 0
        keep = counts[..., None].to(self.dtype)
        inputs = hidden.to(self.dtype) * keep * getattr(self.module, "ssm_in_multiplier", 1.0)
        weight = self.p["in_proj.weight"].to(self.dtype)
        rows = functional.linear(inputs, weight, self.parameter("in_proj.bias"))
        multiplier = getattr(self.module, "mup_vector", None)
        if multiplier is not None:
            rows = rows * self._multiplied(multiplier)
        kernel = self.p["conv1d.weight"].to(self.dtype)
        parts = [self.ahead, self.channels, len(kernel), self.blocks]
        _, z, xBC, dt = torch.split(rows, parts, -1)
        xBC = functional.pad(xBC.mT, (kernel.shape[-1] - 1, 0))
        bias = self.parameter("conv1d.bias")
        xBC = self.act(functional.conv1d(xBC, kernel, bias, groups=len(kernel)).mT) * keep
        shared = self.groups * self.state_dim
        x, B, C = torch.split(xBC, [self.channels, shared, shared], -1)
        dt = functional.softplus(dt + self.p["dt_bias"].to(self.dtype)).clamp(*self.limit)
        by_group = (*hidden.shape[:2], self.groups, -1)
        by_head = (*hidden.shape[:2], self.groups, self.blocks // self.groups, -1)
        return Signals(
            values=x.reshape(by_head),
            steps=dt.reshape(by_group),
            decay=-self.p["A_log"].to(self.dtype).exp().view(self.groups, -1, 1),
            keys=B.reshape(by_group),
            queries=C.reshape(by_group),
            gate=functional.silu(z).reshape(by_head),
            mask=counts,
        )

    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        scale = getattr(self.module, "ssm_in_multiplier", 1.0)
        return hidden.to(self.dtype) * s.mask[..., None].to(self.dtype) * scale

    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        at = torch.cat([part.at for part in self.parts()]).to(inputs.device)
        bias = self.parameter("in_proj.bias")
        both = functional.linear(inputs, torch.cat(list(rows)), None if bias is None else bias[at])
        multiplier = getattr(self.module, "mup_vector", None)
        if multiplier is not None:
            both = both * self._multiplied(multiplier)[..., at - self.ahead]
        kernel, bias = self.p["conv1d.weight"].to(self.dtype), self.parameter("conv1d.bias")
        kernel, bias = kernel[self.channels :], None if bias is None else bias[self.channels :]
        padded = functional.pad(both.mT, (kernel.shape[-1] - 1, 0))
        both = self.act(functional.conv1d(padded, kernel, bias, groups=len(kernel)).mT)
        both = (both * mask[..., None].to(self.dtype)).unflatten(-1, (2, self.groups, -1))
        return both[:, :, 0], both[:, :, 1]

    def _multiplied(self, vector: Tensor) -> Tensor:
        axis = StateAxis(
            vector.ndim - 1,
            roles=("write", "read"),
            groups=self.groups,
            lead=2 * self.channels,
            tail=self.blocks,
        )
        return resized_rows(vector, axis, self.state_dim)

    @property
    def out_weight(self) -> Tensor:
        W = self.p["out_proj.weight"].to(self.dtype)[:, -self.channels :]
        norm = self.parameter("norm.weight")
        return W if norm is None else W * norm

    def _skipped(self, s: Signals, y: Tensor) -> Tensor:
        """y + D x, (B, L, D)."""
        D = self.p["D"].to(self.dtype).flatten()
        skip = D if len(D) == self.channels else self._by_channel(D)
        return y.flatten(2) + skip * s.values.flatten(2)

    def before_norms(self, s: Signals, y: Tensor) -> Tensor:
        y = self._skipped(s, y)
        return y if self._first else y * s.gate.flatten(2)

    def activations(self, s: Signals, y: Tensor) -> Tensor:
        weight, gate = self.parameter("norm.weight"), s.gate.flatten(2)
        if weight is None:
            return self._skipped(s, y) * gate
        norm: Any = self.module.norm
        eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
        parts = self.before_norms(s, y).unflatten(-1, (self.norms, -1))  # type: ignore[no-untyped-call]
        u = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + eps)
        u = u.flatten(-2) * weight
        out: Tensor = u * gate if self._first else u
        return out

    def beside(self, hidden: Tensor) -> Tensor | None:
        if not self.ahead:
            return None
        # A gated MLP shares the layer.
        weight, columns = self.p["in_proj.weight"], self.p["out_proj.weight"]
        rows = functional.linear(hidden.to(self.dtype), weight[: self.ahead].to(self.dtype))
        gate, value = rows.chunk(2, -1)
        mlp = columns[:, : -self.channels].to(self.dtype)
        return functional.linear(functional.silu(gate) * value, mlp)

    def changes(self, choice: Choice) -> dict[str, NewValue]:
        return self.selected(choice)


_SIZED = ("in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias")


def resized_rows(vector: Tensor, axis: StateAxis, states: int) -> Tensor:
    """A vector over rows, constant over those of B and over those of C, for other states."""
    now = axis.count(vector.shape[axis.dim])
    if now is None:
        raise InputError(f"model: a vector over {vector.shape[axis.dim]} rows fits no state size")
    return axis.first(vector, now, states)


@final
@register_adapter(
    "transformers.models.mamba2.modeling_mamba2.Mamba2Mixer",
    "transformers.models.bamba.modeling_bamba.BambaMixer",
    "transformers.models.zamba2.modeling_zamba2.Zamba2MambaMixer",
    "transformers.models.falcon_h1.modeling_falcon_h1.FalconH1Mixer",
    "transformers.models.nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer",
    "transformers.models.granitemoehybrid.modeling_granitemoehybrid.GraniteMoeHybridMambaLayer",
    "mamba_ssm.modules.mamba2.Mamba2",
)
class Mamba2Adapter(MatrixStateAdapter):
    """Selection of states in every group; `out_proj` makes up for it."""

    family = "Mamba-2"
    config_keys = ("state_size", "mamba_d_state", "ssm_state_size")
    tensors = Tensors(
        needed=("A_log", "D", "dt_bias", "in_proj.weight", "conv1d.weight", "out_proj.weight"),
        optional=(
            *("in_proj.bias", "conv1d.bias", "norm.weight", "out_proj.bias"),
            *("mup_vector", "init_states"),
        ),
    )
    lacking: ClassVar = dict.fromkeys(
        ("greedy-refit", "greedy-weights", "greedy-weights-scan"),
        "a convolution and SiLU stand between the projection and C",
    )

    def layout(self, module: nn.Module) -> Layout:
        channels, groups = _channels(module), _groups(module)
        heads = len(module.get_parameter("A_log"))
        convolved = module.get_parameter("conv1d.weight").shape[0]
        # The rows of `in_proj` that the convolution does not see lie before these and, one for
        # each head, behind them.
        before = module.get_parameter("in_proj.weight").shape[0] - convolved - heads
        roles: tuple[Role, ...] = ("write", "read")
        conv = StateAxis(0, roles=roles, groups=groups, lead=channels)
        rows = replace(conv, lead=before + channels, tail=heads)
        axes = {"in_proj": rows, "conv1d": conv}
        multiplier = getattr(module, "mup_vector", None)
        buffers = {}
        if isinstance(multiplier, Tensor):
            vector = replace(conv, dim=multiplier.ndim - 1, lead=2 * channels, tail=heads)
            buffers["mup_vector"] = partial(resized_rows, multiplier, vector)
        return Layout(
            parameters={
                name: axes[name.split(".")[0]]
                for name, _ in module.named_parameters()
                if name in _SIZED
            },
            sizes={
                "ssm_state_size": 1,
                "d_state": 1,
                "conv_dim": "conv1d.weight",
                "groups_time_state_size": groups,
            },
            buffers=buffers,
        )

    def state_bytes(self, module: nn.Module) -> int:
        rows, kernel = module.get_parameter("in_proj.weight"), module.get_parameter("conv1d.weight")
        # A state of every channel, and what the convolution remembers of its rows of B and C.
        remembered = _channels(module) + 2 * _groups(module) * kernel.shape[-1]
        return remembered * rows.element_size()

    def read(self, module: nn.Module) -> MatrixStateLayer:
        return Mamba2Layer(module, self.layout(module))
