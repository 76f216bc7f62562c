"""Kimi delta attention of transformers: the delta rule with a decay for each key dimension.

    log a_t = -exp(A) softplus(W_f x_t + b)       or  bound * sigmoid(exp(A) (W_f x_t + b))

Queries, keys and values are of one size here, `linear_head_dim`. A cut makes keys and queries, and
the rows of the decay, smaller than values; what follows is in `convolved_delta` and `key_sized`.

Source: Kimi team 2025 (arXiv 2510.26692).
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.families.base import register_adapter
from compressm.families.layout import Layout, StateAxis
from compressm.families.matrix_state.convolved_delta import (
    ConvolvedDeltaAdapter,
    ConvolvedDeltaLayer,
    separate_axes,
)
from compressm.families.matrix_state.gates import require_silu
from compressm.families.matrix_state.key_sized import (
    class_at,
    masked,
    refuse_packed,
    register_forward,
    why_not_stock,
)
from compressm.families.structure import Tensors
from compressm.ops import causal_conv1d, gated_delta_rule

_LAYERS = (
    "transformers.models.kimi_linear.modeling_kimi_linear.KimiLinearDeltaAttention",
    "transformers.models.glm5_next.modeling_glm5_next.Glm5NextTextLinearAttention",
    "transformers.models.bailing_hybrid.modeling_bailing_hybrid.BailingHybridDeltaAttention",
)


def _lower_bound(gate: Any) -> float | None:
    """The bound of log a_t, where the layer has one."""
    if hasattr(gate, "safe_gate"):
        return gate.lower_bound if gate.safe_gate else None
    bound: float | None = getattr(gate, "safe_gate_lower_bound", None)
    return bound


@final
class KimiDeltaLayer(ConvolvedDeltaLayer):
    """One layer, read once."""

    norm: ClassVar = "o_norm"
    out_map: ClassVar = "o_proj"
    made_by = ("k_proj.weight", "q_proj.weight")

    def _two(self, first: str, second: str, u: Tensor) -> Tensor:
        """A map, or the two of low rank that some have instead."""
        return self.linear(second, self.linear(first, u) if f"{first}.weight" in self.p else u)

    def projected(self, u: Tensor) -> tuple[Tensor, Tensor]:
        qkv = torch.cat([self.linear(f"{letter}_proj", u) for letter in "qkv"], -1)
        whole = "g_proj" if "g_proj.weight" in self.p else "g_b_proj"
        return qkv, self._two("g_a_proj", whole, u)

    def rates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        gate = "forget_gate"
        whole = f"{gate}.f_proj" if f"{gate}.f_proj.weight" in self.p else f"{gate}.f_b_proj"
        rows = self._two(f"{gate}.f_a_proj", whole, u) + self.p[f"{gate}.dt_bias"].to(self.dtype)
        rows = rows.reshape(*u.shape[:2], self.groups, self.state_dim)
        rate = self.p[f"{gate}.A_log"].to(self.dtype).exp().view(self.groups, 1)
        bound = _lower_bound(self.module.get_submodule(gate))
        decay = (
            -rate * functional.softplus(rows) if bound is None else bound * (rate * rows).sigmoid()
        )
        return decay[:, :, :, None], self.linear("b_proj", u).sigmoid()[..., None]


@final
@register_adapter(*_LAYERS)
class KimiDeltaAdapter(ConvolvedDeltaAdapter):
    """Selection of key dimensions and their decays; the layer then runs a forward of ours."""

    family = "Kimi delta attention"
    reads = KimiDeltaLayer
    tensors = Tensors(
        needed=(
            *(f"{letter}_proj.weight" for letter in "qkvbo"),
            *("conv1d.weight", "o_norm.weight", "forget_gate.A_log", "forget_gate.dt_bias"),
        ),
        optional=(
            *("forget_gate.f_a_proj.weight", "forget_gate.f_b_proj.weight"),
            *("forget_gate.f_proj.weight", "g_a_proj.weight", "g_b_proj.weight", "g_proj.weight"),
        ),
    )

    def layout(self, module: nn.Module) -> Layout:
        own: Any = module
        groups, values = int(own.num_heads), len(own.o_norm.weight)
        axes = separate_axes(module, groups, groups * values)
        has, decay = dict(module.named_parameters()), StateAxis(0, roles=("decay",), groups=groups)
        for name in ("f_b_proj.weight", "f_proj.weight", "dt_bias"):
            if f"forget_gate.{name}" in has:
                axes[f"forget_gate.{name}"] = decay
        return Layout(
            parameters=axes,
            sizes={
                "conv_dim": "conv1d.weight",
                "forget_gate.head_dim": 1,
                "forget_gate.qkv_dim": groups,
            },
            kind=partial(class_at, module, values),
            unstored=partial(why_not_stock, "linear_head_dim", values),
        )


def _sizes(module: Any) -> tuple[int, int]:
    """Values and keys of a head."""
    return len(module.o_norm.weight), len(module.k_proj.weight) // int(module.num_heads)


@register_forward(*_LAYERS, sizes=_sizes)
def kimi_forward(
    self: Any,
    hidden_states: Tensor,
    cache: Any = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """What these layers compute, with the sizes of keys and values read from their tensors."""
    refuse_packed(kwargs)
    require_silu(self)
    cache = kwargs.get("cache_params") if cache is None else cache
    u = masked(hidden_states, attention_mask)
    batch, steps = u.shape[:2]
    width, values = len(self.o_norm.weight), self.v_proj.weight.shape[0]
    keys = self.k_proj.weight.shape[0]
    before = None if cache is None else cache.get_recurrent_state(self.layer_idx, state_idx=0)
    rows = torch.cat([self.q_proj(u), self.k_proj(u), self.v_proj(u)], -1).mT
    if cache is not None:
        taps = self.conv_kernel_size
        rows = cache.update_conv_state(rows, self.layer_idx, conv_kernel_size=taps)
    made = causal_conv1d(rows, self.conv1d.weight[:, 0], self.conv1d.bias, silu=True)
    parts = torch.split(made.mT[:, -steps:], [keys, keys, values], -1)
    exact = torch.promote_types(u.dtype, torch.float32)
    q, k, v = (part.reshape(batch, steps, self.num_heads, -1).to(exact) for part in parts)
    output, last = gated_delta_rule(
        *(q, k, v, self.b_proj(u).sigmoid().to(exact), self.forget_gate(u).to(exact)),
        initial_state=None if before is None else before.to(exact),
        normalise=q.shape[-1] ** -0.5,
    )
    if cache is not None:
        cache.update_recurrent_state(last.float(), self.layer_idx)
    gate = self.g_proj(u) if hasattr(self, "g_proj") else self.g_b_proj(self.g_a_proj(u))
    normed = self.o_norm(output.to(u.dtype), gate.reshape(batch, steps, -1, width))
    mapped: Tensor = self.o_proj(normed.flatten(2))
    return mapped
