"""`fla`'s multi-scale retention (RetNet): a constant decay for each head, keys that are rotated.

Plane n, the entries n and n + N of a head, turns by 10000^(-n/N) a step: one complex state. All
heads turn alike, and the layer computes the frequencies from N, which its configuration stores; no
weights file holds them. So the planes that can stay are every m-th, whose frequencies a layer of
N/m planes has, in all heads. Others could stay only in a live model that nobody could load again.

N planes, H query heads.
Source: Sun et al. 2023 (arXiv 2307.08621, section 2.1).
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from compressm.errors import InputError
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
from compressm.families.matrix_state.recurrences import HeadDecay
from compressm.families.structure import Tensors


def _frequencies(base: float, planes: int) -> Tensor:
    """(N,) radians a step."""
    return base ** -(torch.arange(planes, dtype=torch.float64, device="cpu") / planes)


@final
class FlaRetentionLayer(FlaLayer):
    """One layer, read once."""

    recurrence: ClassVar = HeadDecay()
    plain = "qkv"
    entries = 2
    spaced = True
    no_growth: str | None = "the number of planes says how fast each of them turns"

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        own: Any = module
        if own.rotary.interleaved or own.rotary.scale_base is not None:
            raise InputError(
                f"model: {type(module).__name__} rotates interleaved or scaled planes; expected "
                "RotaryEmbedding(dim) as it is"
            )
        self._feature_map = own.feature_map_fn
        linear = self._feature_map is None and "q_conv1d.weight" not in self.p
        self.weighed = "q_proj.weight" if linear else None
        self._base = float(own.rotary.base)

    def formed(self, x: Tensor) -> Tensor:
        x = x if self._feature_map is None else self._feature_map(x)
        time = torch.arange(x.shape[1], dtype=torch.float64, device="cpu")
        angles = torch.outer(time, _frequencies(self._base, self.state_dim))[:, None]
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

    def decay(self, u: Tensor) -> Tensor | None:
        powers = torch.exp2(-5.0 - torch.arange(self.heads, dtype=torch.float64, device="cpu"))
        decay = torch.log1p(-powers).to(u)[:, None, None]
        return decay.expand(*u.shape[:2], self.heads, 1, 1)

    def beta(self, u: Tensor) -> Tensor | None:
        return None


_SETTLED = dict.fromkeys(
    ("pivoted-qr", "strong-rrqr", "energy", "diagonal", "greedy", "greedy-weights-scan", "random"),
    "every m-th plane stays, whatever the order",
)


@final
@register_adapter("fla.layers.multiscale_retention.MultiScaleRetention")
class FlaRetentionAdapter(FlaAdapter):
    """Every m-th plane of rotation stays, in all heads; all that makes them is fitted."""

    family = "RetNet of fla"
    reads = FlaRetentionLayer
    lacking: ClassVar = _SETTLED | {
        "hankel": "it averages step sizes, and these layers have none",
        "greedy-refit": "it mixes queries of one head, and these layers have several",
    }
    tensors = Tensors(needed=(*PROJECTIONS, "rotary.inv_freq"), optional=SHARED)

    def layout(self, module: nn.Module) -> Layout:
        own: Any = module
        heads, keys = int(own.num_heads), int(own.num_kv_heads)
        return fla_layout(
            module,
            groups=1,
            key_heads=keys,
            decays={},
            entries=2,
            sizes={
                "head_k_dim": 2,
                "key_dim": 2 * heads,
                "key_dim_per_group": 2 * keys,
                "rotary.dim": 2,
                "expand_k": expansion(2 * heads, own.q_proj.weight.shape[1]),
            },
            config=["expand_k"],
            buffers={"rotary.inv_freq": partial(_frequencies, float(own.rotary.base))},
            caches=("rotary._cos_cached", "rotary._sin_cached"),
        )
