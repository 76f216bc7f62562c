"""How far the output of a cut layer is from that of the full one, on data."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from compressm.families.matrix_state.corrections.samples import added
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.probes import Inputs, LayerProbe, Seen


@final
class ErrorProbe(LayerProbe):
    """sqrt(E||y - y'||² / E||y - y_0||²), y_0 what the full layer puts out without its states.

    Of the layers as they are, norms and gates included, whatever the states were chosen by.
    """

    def __init__(self, inputs: Inputs, layer: MatrixStateLayer, cut: MatrixStateLayer) -> None:
        super().__init__(inputs, layer)
        self._cut = cut
        # Of the difference; of what the states add.
        self._energies = torch.zeros(2, dtype=torch.float64, device="cpu")

    def add(self, seen: Seen) -> None:
        y, states = added(self.layer, (seen.hidden, seen.mask))
        s = self._cut.signals(seen.hidden, seen.mask)
        cut = self._cut.mapped(self._cut.activations(s, self._cut.scan(s)))
        gaps = ((y - cut)[s.mask], states)
        self._energies += torch.stack([gap.double().square().sum().cpu() for gap in gaps])

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.evidence.pool(total)
        self._energies = total(self._energies)

    @property
    def error(self) -> float | None:
        """None where nothing was seen, or the states add nothing."""
        missing, whole = self._energies.tolist()
        return (missing / whole) ** 0.5 if whole > 0 else None
