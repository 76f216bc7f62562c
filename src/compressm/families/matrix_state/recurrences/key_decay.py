"""A decay for every state (key dimension) that depends on time: gated linear attention."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.recurrences.base import (
    Recurrence,
    by_head,
    head_decays,
    unfold,
)
from compressm.numerics.matrix_state.signals import Signals
from compressm.ops import gated_linear_attention


@final
class KeyDecay(Recurrence):
    """S_t = diag(a_t) S_{t-1} + k_t v_t', a_t (N,) for each group or head.

    Source: Yang et al. 2023 (arXiv 2312.06635).
    """

    any_basis: ClassVar = False
    additive: ClassVar = True

    def scan(self, s: Signals) -> Tensor:
        q, k, v = by_head(s)
        return unfold(gated_linear_attention(q, k, v, head_decays(s))[0], s)
