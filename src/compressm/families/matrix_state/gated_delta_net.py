"""Gated DeltaNet layers of transformers: the delta rule with one decay for each value head.

Queries, keys and values come of one projection, interleaved with the gate by key head or apart from
it, or of one for each (OlmoHybrid); what follows is in `convolved_delta`.

Source: Yang et al. 2024 (arXiv 2412.06464).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.families.base import register_adapter
from compressm.families.layout import Layout, StateAxis
from compressm.families.matrix_state.convolved_delta import (
    ConvolvedDeltaAdapter,
    ConvolvedDeltaLayer,
    channels_of,
    separate_axes,
)
from compressm.families.structure import Tensors

_STACKED, _INTERLEAVED = "in_proj_qkv.weight", "in_proj_qkvz.weight"


class GatedDeltaNetLayer(ConvolvedDeltaLayer):
    """What all of them share: the rates of decays and of writing."""

    @abstractmethod
    def gates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """What makes b and a, each (B, L, G, J)."""

    @final
    def rates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        b, a = self.gates(u)
        rate, bias = (self.p[n].to(self.dtype).view(self.groups, -1) for n in ("A_log", "dt_bias"))
        beta = b.sigmoid()
        # Up to 2 it turns what a key finds around: eigenvalues down to -1.
        beta = 2 * beta if getattr(self.module, "allow_neg_eigval", False) else beta
        return (-rate.exp() * functional.softplus(a + bias))[..., None], beta

    @final
    def by_group(self, rows: Tensor) -> Tensor:
        """(B, L, rows) as (B, L, G, …)."""
        return rows.reshape(*rows.shape[:2], self.groups, -1)


@final
class FusedDeltaNetLayer(GatedDeltaNetLayer):
    """One projection of queries, keys and values."""

    norm: ClassVar = "norm"

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        self.interleaved = _INTERLEAVED in self.p
        self.made_by = (_INTERLEAVED if self.interleaved else _STACKED,)

    def projected(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if not self.interleaved:
            return self.linear("in_proj_qkv", u), self.linear("in_proj_z", u)
        N, values = self.state_dim, self.heads * self.width
        rows = self.by_group(self.linear("in_proj_qkvz", u))
        q, k, v, z = torch.split(rows, [N, N, values, values], -1)
        return torch.cat([part.flatten(2) for part in (q, k, v)], -1), z

    def gates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.interleaved:
            b, a = self.by_group(self.linear("in_proj_ba", u)).chunk(2, -1)
            return b, a
        return self.by_group(self.linear("in_proj_b", u)), self.by_group(
            self.linear("in_proj_a", u)
        )


@final
class OlmoDeltaNetLayer(GatedDeltaNetLayer):
    """A projection for each signal."""

    norm: ClassVar = "o_norm"
    out_map: ClassVar = "o_proj"
    made_by = ("k_proj.weight", "q_proj.weight")

    def projected(self, u: Tensor) -> tuple[Tensor, Tensor]:
        qkv = torch.cat([self.linear(f"{letter}_proj", u) for letter in "qkv"], -1)
        return qkv, self.linear("g_proj", u)

    def gates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        b, a = (self.by_group(self.linear(f"{letter}_proj", u)) for letter in "ba")
        return b, a


def _heads(module: Any, norm: str) -> tuple[int, int]:
    """G key heads, and J V values that each of them serves."""
    keys = int(module.num_k_heads)
    width = len(module.get_parameter(f"{norm}.weight"))
    return keys, len(module.A_log) // keys * width


@final
@register_adapter(
    "transformers.models.qwen3_next.modeling_qwen3_next.Qwen3NextGatedDeltaNet",
    "transformers.models.qwen3_5.modeling_qwen3_5.Qwen3_5GatedDeltaNet",
    "transformers.models.qwen3_5_moe.modeling_qwen3_5_moe.Qwen3_5MoeGatedDeltaNet",
    "transformers.models.qwen4_exp.modeling_qwen4_exp.Qwen4ExpTextGatedDeltaNet",
    "transformers.models.lara_mini.modeling_lara_mini.LaraMiniGatedDeltaNet",
)
class GatedDeltaNetAdapter(ConvolvedDeltaAdapter):
    """Selection of key dimensions in every key head; all that makes them is fitted."""

    family = "Gated DeltaNet"
    config_keys = ("linear_key_head_dim",)
    reads = FusedDeltaNetLayer
    tensors = Tensors(
        needed=("A_log", "dt_bias", "conv1d.weight", "norm.weight", "out_proj.weight"),
        optional=(
            *(_INTERLEAVED, "in_proj_ba.weight", _STACKED),
            *("in_proj_z.weight", "in_proj_b.weight", "in_proj_a.weight", "conv1d.bias"),
        ),
    )

    def layout(self, module: nn.Module) -> Layout:
        groups, values = _heads(module, "norm")
        channels = channels_of(groups, groups * values)
        rows = StateAxis(0, roles=channels.roles, groups=groups, gap=2 * values)
        axes = {_STACKED: channels, _INTERLEAVED: rows}
        axes |= dict.fromkeys(("conv1d.weight", "conv1d.bias"), channels)
        has = dict(module.named_parameters())
        return Layout(
            parameters={name: axis for name, axis in axes.items() if name in has},
            sizes={"head_k_dim": 1, "key_dim": groups, "conv_dim": "conv1d.weight"},
        )


@final
@register_adapter("transformers.models.olmo_hybrid.modeling_olmo_hybrid.OlmoHybridGatedDeltaNet")
class OlmoDeltaNetAdapter(ConvolvedDeltaAdapter):
    """As Gated DeltaNet, with a projection for each signal and decays that may change signs."""

    family = "Gated DeltaNet of OlmoHybrid"
    config_keys = ("linear_key_head_dim",)
    reads = OlmoDeltaNetLayer
    tensors = Tensors(
        needed=(
            *("A_log", "dt_bias", "conv1d.weight", "o_norm.weight"),
            *(f"{letter}_proj.weight" for letter in "qkvabgo"),
        ),
        optional=("conv1d.bias",),
    )

    def layout(self, module: nn.Module) -> Layout:
        groups, values = _heads(module, "o_norm")
        return Layout(
            parameters=separate_axes(module, groups, groups * values),
            sizes={"head_k_dim": 1, "key_dim": groups, "conv_dim": "conv1d.weight"},
        )
