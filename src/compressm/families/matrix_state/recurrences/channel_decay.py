"""A decay for every channel and state: Mamba-1."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from compressm.families.matrix_state.recurrences.base import Recurrence
from compressm.numerics.matrix_state.signals import Signals
from compressm.ops import selective_scan


@final
class ChannelDecay(Recurrence):
    """h_t[d] = exp(dt_t[d] A[d]) h_{t-1}[d] + dt_t[d] x_t[d] B_t, A (D, N), one group.

    Heads of one value are its channels. The decays of a channel differ, and those of its
    neighbour differ in another way, so no basis but the given one stays diagonal for all.
    Source: Gu and Dao 2023 (arXiv 2312.00752).
    """

    any_basis: ClassVar = False
    additive: ClassVar = True

    def scan(self, s: Signals) -> Tensor:
        assert s.steps is not None
        assert s.decay is not None
        x, dt = s.values[:, :, 0, :, 0].mT, s.steps[:, :, 0].mT
        y = selective_scan(x, dt, s.decay[0], s.keys.movedim(1, 3), s.queries.movedim(1, 3))
        assert isinstance(y, Tensor)
        return y.mT[:, :, None, :, None]
