"""`fla`'s gated linear attention: a decay for each key dimension.

Query heads can share a key head; then they keep the same states. Where no convolution and no
feature map stand between W_q and the queries, weights of contributions are stored in its rows.

Source: Yang et al. 2023 (arXiv 2312.06635).
"""

from __future__ import annotations

from typing import Any, ClassVar, final

from torch import Tensor, nn
from torch.nn import functional

from compressm.families.base import register_adapter
from compressm.families.layout import Layout
from compressm.families.matrix_state.fla.layer import (
    PROJECTIONS,
    SHARED,
    FlaAdapter,
    FlaLayer,
    expansion,
    fla_layout,
)
from compressm.families.matrix_state.recurrences import KeyDecay
from compressm.families.structure import Tensors


@final
class FlaGatedLinearAttentionLayer(FlaLayer):
    """`a_t = sigmoid(W_2 W_1 x_t + b)^(1/normalizer)`."""

    recurrence: ClassVar = KeyDecay()
    plain = "qkv"
    query_rows: ClassVar = ("q_proj.weight",)
    decay_entries: ClassVar = ("gk_proj.1.bias",)

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        own: Any = module
        self._feature_map = own.feature_map_fn
        linear = self._feature_map is None and "q_conv1d.weight" not in self.p
        self.weighed = "q_proj.weight" if linear else None
        self.no_growth = None if linear else self.no_growth

    def formed(self, x: Tensor) -> Tensor:
        made: Tensor = x if self._feature_map is None else self._feature_map(x)
        return made

    def decay(self, u: Tensor) -> Tensor | None:
        own: Any = self.module
        gate = functional.logsigmoid(self.linear("gk_proj", u)) / own.gate_logit_normalizer
        if own.clamp_min is not None:
            gate = gate.clamp_min(own.clamp_min)
        by_head = gate.reshape(*u.shape[:2], -1, self.state_dim)
        return self.shared(by_head, self.heads)[:, :, :, None]

    def beta(self, u: Tensor) -> Tensor | None:
        return None


@final
@register_adapter("fla.layers.gla.GatedLinearAttention")
class FlaGatedLinearAttentionAdapter(FlaAdapter):
    """Selection of key dimensions and their decays, with weights where W_q can store them."""

    family = "GLA of fla"
    reads = FlaGatedLinearAttentionLayer
    lacking: ClassVar = {
        "hankel": "it averages step sizes, and these layers have none",
        "greedy-refit": "it mixes queries over one group, and these layers have several",
    }
    tensors = Tensors(
        needed=(*PROJECTIONS, "gk_proj.0.weight", "gk_proj.1.weight", "gk_proj.1.bias"),
        optional=SHARED,
    )

    def layout(self, module: nn.Module) -> Layout:
        own: Any = module
        heads, keys = int(own.num_heads), int(own.num_kv_heads)
        return fla_layout(
            module,
            groups=keys,
            key_heads=keys,
            decays=dict.fromkeys(("gk_proj.1.weight", "gk_proj.1.bias"), keys),
            sizes={
                "head_k_dim": 1,
                "key_dim": heads,
                "key_dim_per_group": keys,
                "expand_k": expansion(heads, own.q_proj.weight.shape[1]),
            },
            config=["expand_k"],
        )
