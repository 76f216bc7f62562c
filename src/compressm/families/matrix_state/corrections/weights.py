"""Weights of the kept contributions, and nothing more."""

from __future__ import annotations

from typing import ClassVar, final

from compressm.families.matrix_state.choice import NewValue
from compressm.families.matrix_state.corrections.base import Correction, register_correction
from compressm.families.matrix_state.probes import Inputs


@final
@register_correction("weights")
class Weights(Correction):
    """The choice has them already, where the layer can store them."""

    label: ClassVar = "weights"

    def watch(self, inputs: Inputs) -> None:
        return None

    def finish(self) -> tuple[dict[str, NewValue], float | None]:
        return self.changes, None
