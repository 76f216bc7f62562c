"""What a key finds is replaced, not added to: DeltaNet, Gated DeltaNet, Kimi delta attention."""

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
from compressm.ops import gated_delta_rule


@final
class DeltaRule(Recurrence):
    """S_t = (I - b_t k_t k_t') a_t S_{t-1} + b_t k_t v_t', a_t absent, a number, or diagonal.

    Keys have length one. Its transition turns states into each other, so what one state adds
    depends on which others there are; orthogonal changes of basis alone commute with it.
    Source: Yang et al. 2024 (arXiv 2406.06484, 2412.06464); Kimi team 2025 (arXiv 2510.26692).
    """

    any_basis: ClassVar = False
    additive: ClassVar = False

    def scan(self, s: Signals) -> Tensor:
        assert s.beta is not None
        q, k, v = by_head(s)
        y, _ = gated_delta_rule(q, k, v, s.beta.flatten(2), head_decays(s))
        return unfold(y, s)
