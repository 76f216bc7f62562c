"""Lightning attention of MiniMax: linear attention with a constant decay for each head.

    q, k, v = silu(W x),  S_t = exp(-s) S_{t-1} + k_t v_t',  o_t = S_t' q_t
    y = W_o (sigmoid(W_g x) norm(o))              with one norm over all heads

Nothing is scaled by the number of keys. SiLU stands between W and the queries, so states (key
dimensions) are selected. Keys and values are of one size here, `head_dim`, which softmax layers
share; after a cut the layer runs a forward of ours, see `key_sized`.

Source: MiniMax 2025 (arXiv 2501.08313, section 2.2); Qin et al. 2024 (arXiv 2401.04658).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.families.base import register_adapter
from compressm.families.layout import Layout, StateAxis
from compressm.families.matrix_state.adapter import NO_STEPS, MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue
from compressm.families.matrix_state.key_sized import (
    class_at,
    masked,
    refuse_packed,
    register_forward,
    why_not_stock,
)
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.recurrences import HeadDecay
from compressm.families.structure import Tensors
from compressm.numerics.matrix_state.signals import Signals
from compressm.ops import gated_linear_attention

_LAYER = "transformers.models.minimax.modeling_minimax.MiniMaxLightningAttention"
_DECAYS = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")


def _width(module: Any) -> tuple[int, int]:
    """G heads, and V values of each."""
    heads = int(module.num_attention_heads)
    return heads, len(module.norm.weight) // heads


@final
class LightningLayer(MatrixStateLayer):
    """One layer, read once; every head is a group with keys and queries of its own."""

    recurrence: ClassVar = HeadDecay()
    made_by = ("qkv_proj.weight",)
    no_growth: str | None = None

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        own: Any = module
        self.groups, self.width = _width(module)
        self.blocks = self.groups
        self._act: Any = own.act_fn
        self._slopes = own.slope_rate.detach().to(self.dtype).view(self.groups, 1, 1)
        self._eps = float(own.norm.variance_epsilon)

    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        counts = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask > 0
        u = hidden.to(self.dtype)
        by_head = (*u.shape[:2], self.groups, -1)
        made = self._act(functional.linear(u, self.p["qkv_proj.weight"].to(self.dtype)))
        made = (made * counts[..., None].to(self.dtype)).reshape(by_head)
        q, k, v = torch.split(made, [self.state_dim, self.state_dim, self.width], -1)
        gate = functional.linear(u, self.p["output_gate.weight"].to(self.dtype)).sigmoid()
        return Signals(
            queries=q,
            keys=k,
            values=v[:, :, :, None],
            decay=(-self._slopes).expand(*u.shape[:2], -1, -1, -1),
            gate=gate.reshape(by_head)[:, :, :, None],
            mask=counts,
        )

    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        return hidden.to(self.dtype)

    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        counts = mask[..., None].to(inputs.dtype)
        keys, queries = (self._act(functional.linear(inputs, own)) * counts for own in rows)
        by_head = (*inputs.shape[:2], self.groups, -1)
        return keys.reshape(by_head), queries.reshape(by_head)

    def activations(self, s: Signals, y: Tensor) -> Tensor:
        rows = y.flatten(2)
        rows = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + self._eps)
        return rows * self.p["norm.weight"].to(self.dtype) * s.gate.flatten(2)

    def beside(self, hidden: Tensor) -> Tensor | None:
        return None

    @property
    def out_weight(self) -> Tensor:
        return self.p["out_proj.weight"].to(self.dtype) * self.p["norm.weight"].to(self.dtype)

    def changes(self, choice: Choice) -> dict[str, NewValue]:
        return self.selected(choice)


@final
@register_adapter(_LAYER)
class LightningAdapter(MatrixStateAdapter):
    """Selection of key dimensions in every head; the layer then runs a forward of ours."""

    family = "lightning attention"
    default = "elimination-fit"
    tensors = Tensors(
        needed=(
            *("qkv_proj.weight", "output_gate.weight", "norm.weight", "out_proj.weight"),
            *_DECAYS,
        )
    )
    lacking: ClassVar = NO_STEPS | dict.fromkeys(
        ("greedy-refit", "greedy-weights", "greedy-weights-scan", "greedy-weights-gradient"),
        "SiLU stands between the projection and the queries",
    )

    def layout(self, module: nn.Module) -> Layout:
        groups, values = _width(module)
        rows = StateAxis(0, roles=("read", "write"), groups=groups, gap=values)
        return Layout(
            parameters={"qkv_proj.weight": rows},
            kind=partial(class_at, module, values),
            unstored=partial(why_not_stock, "head_dim", values),
        )

    def state_bytes(self, module: nn.Module) -> int:
        weight = module.get_parameter("norm.weight")
        return len(weight) * weight.element_size()

    def read(self, module: nn.Module) -> MatrixStateLayer:
        return LightningLayer(module, self.layout(module))


def _sizes(module: Any) -> tuple[int, int]:
    """Values and keys of a head."""
    heads, width = _width(module)
    return width, (len(module.qkv_proj.weight) // heads - width) // 2


@register_forward(_LAYER, sizes=_sizes)
def lightning_forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Tensor | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """What the layer computes, with the sizes of keys and values read from its tensors."""
    refuse_packed(kwargs)
    cache = kwargs.get("past_key_values") if cache is None else cache
    batch, steps = hidden_states.shape[:2]
    heads, width = _width(self)
    rows = masked(self.act_fn(self.qkv_proj(hidden_states)), attention_mask)
    rows = rows.reshape(batch, steps, heads, -1)
    keys = (rows.shape[-1] - width) // 2
    exact = torch.promote_types(rows.dtype, torch.float32)
    q, k, v = (part.to(exact) for part in torch.split(rows, [keys, keys, width], -1))
    before = None if cache is None else cache.get_linear_cache(self.layer_idx)
    decay = -self.slope_rate.to(exact).view(1, 1, heads).expand(batch, steps, heads)
    output, last = gated_linear_attention(
        q, k, v, decay, initial_state=None if before is None else before.to(exact)
    )
    last = last.to(rows.dtype)
    if cache is not None:
        cache.set_linear_cache(self.layer_idx, last)
    normed = self.norm(output.to(rows.dtype).flatten(2))
    return self.out_proj(self.output_gate(hidden_states).sigmoid() * normed), last
