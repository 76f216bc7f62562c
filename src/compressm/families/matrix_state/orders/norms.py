"""What groups of states count for beside each other, where each has a norm behind it.

A norm divides what its channels put out by its root mean square, so a head that is a tenth as loud
is as loud as the others behind it. The energies of each group are divided by the mean square of
what its norm sees, before they are added up over groups. Within a group nothing changes.

Shapes as in `signals`; K norms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.numerics.matrix_state.matching import TermOrder
from compressm.numerics.matrix_state.signals import Signals


@final
class NormPowers:
    """Streams the mean square of what each norm sees.

    Args:
        layer: as it was read.
    """

    def __init__(self, layer: MatrixStateLayer) -> None:
        self._layer = layer
        self._sums = torch.zeros(layer.norms, dtype=torch.float64, device="cpu")
        self._count = torch.zeros((), dtype=torch.float64, device="cpu")

    @property
    def matters(self) -> bool:
        """Whether groups have norms apart."""
        return self._layer.groups > 1 and self._layer.norms > 1

    def add(self, s: Signals) -> None:
        """See one call."""
        if not self.matters:
            return
        seen = self._layer.scan(s)
        if self._layer.before_norms is not None:
            seen = self._layer.before_norms(s, seen)
        seen = seen[s.mask].double()
        self._sums += seen.reshape(len(seen), len(self._sums), -1).square().mean(-1).sum(0).cpu()
        self._count += len(seen)

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""
        self._sums, self._count = total(self._sums), total(self._count)

    def factors(self) -> Tensor | None:
        """(G,) what the energies of each group are multiplied with; None: all with the same.

        Where a group has several norms, the mean of theirs.
        """
        if not self.matters:
            return None
        power = self._sums / self._count.clamp_min(1.0)
        inverse = torch.where(power > 0, 1 / power.clamp_min(1e-300), 0.0)
        groups, norms = self._layer.groups, len(inverse)
        return inverse.repeat_interleave(groups).view(groups, norms).mean(1)


def factors_by_totals(layer: MatrixStateLayer, orders: Sequence[TermOrder]) -> Tensor | None:
    """The same where the output was not looked at, and the energies are a model of its square."""
    if layer.groups < 2 or layer.norms < 2:
        return None
    totals = torch.tensor([order.total for order in orders], dtype=torch.float64, device="cpu")
    together = max(1, layer.groups // layer.norms)
    power = totals.view(-1, together).sum(1).repeat_interleave(together)
    return torch.where(power > 0, 1 / power.clamp_min(1e-300), 0.0)
