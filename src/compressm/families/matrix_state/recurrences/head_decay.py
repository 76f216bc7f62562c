"""One decay for all states of a head: Mamba-2, linear and lightning attention, RetNet."""

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
from compressm.ops import gated_linear_attention, ssd


@final
class HeadDecay(Recurrence):
    """S_t = a_t S_{t-1} + w_t k_t v_t' with a number a_t for each head.

    Late writing, u_t k_t v_t' after step t was read, is writing w_t + u_t, less what that would
    have shown too soon: u_t (k_t' q_t) v_t.

    The decay is a multiple of the identity, so any change of basis commutes with it.
    Source: Dao and Gu 2024 (arXiv 2405.21060); Sun et al. 2023 (arXiv 2307.08621); the trapezoidal
    rule of Mamba-3 (arXiv 2603.15569).
    """

    any_basis: ClassVar = True
    additive: ClassVar = True

    def scan(self, s: Signals) -> Tensor:
        if s.steps is None or s.decay is None or s.late is not None:
            q, k, v = by_head(s)
            if s.late is None:
                return unfold(gated_linear_attention(q, k, v, head_decays(s))[0], s)
            late = (s.late[..., None] * s.values).flatten(2, 3)
            whole, _ = gated_linear_attention(q, k, v + late, head_decays(s))
            return unfold(whole - (q * k).sum(-1, keepdim=True) * late, s)
        x = s.values.flatten(2, 3)
        y = ssd(x, s.steps.flatten(2), s.decay.flatten(), s.keys, s.queries)
        assert isinstance(y, Tensor)
        return unfold(y, s)
