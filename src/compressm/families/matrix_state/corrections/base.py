"""What a correction of a cut layer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar, final

from compressm.errors import InputError
from compressm.families.matrix_state.choice import Choice, NewValue
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.probes import Inputs, LayerProbe

# Relative errors below this are rounding, which no fit can gain on.
_NO_ERROR = 1e-6


class Correction(ABC):
    """Better values for parameters of a layer that keeps a choice of its states.

    Args:
        inputs: reads the arguments of a call.
        layer: the full layer.
        choice: the states that stay, with their weights where the layer can have them.
        changes: the parameters as they are after the choice alone.

    Attributes:
        label: what it changes, in a few words for tables.
        probe: what has to see the calibration batches before `finish`; None: nothing.
        notes: what a reader of the event should know, after `finish`.
    """

    label: ClassVar[str]
    probe: LayerProbe | None
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        inputs: Inputs,
        layer: MatrixStateLayer,
        choice: Choice,
        changes: Mapping[str, NewValue],
    ) -> None:
        self.layer, self.choice, self.changes = layer, choice, dict(changes)
        self.probe = self.watch(inputs)

    @property
    @final
    def cut(self) -> MatrixStateLayer:
        """The layer after the choice alone."""
        return self.layer.reduced(self.changes, self.choice.indices.shape[1])

    @final
    def judge(self, before: float | None, after: float | None) -> None:
        """Note a correction that gained nothing where there was something to gain."""
        if before is None or after is None:
            self.notes += (f"{self.label}: the layer adds nothing to the output on the data",)
        elif not after < before and before > _NO_ERROR:
            self.notes += (
                f"{self.label}: fitting gained nothing, the error is {before:.2g} as after the "
                "choice of states alone",
            )

    @abstractmethod
    def watch(self, inputs: Inputs) -> LayerProbe | None:
        """The probe; called once."""

    @abstractmethod
    def finish(self) -> tuple[dict[str, NewValue], float | None]:
        """All changes, and the relative error that they leave where they were fitted."""


CORRECTIONS: dict[str, type[Correction]] = {}
C = TypeVar("C", bound=type[Correction])


def register_correction(name: str) -> Callable[[C], C]:
    """Make a correction known to methods by name."""

    def register(correction: C) -> C:
        if name in CORRECTIONS:
            known = CORRECTIONS[name].__name__
            raise InputError(f"correction: {name!r} is registered already, by {known}")
        CORRECTIONS[name] = correction
        return correction

    return register
