"""What a refit of a reduced linear layer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from compressm.calibration import Given, Probe
from compressm.families.lti.both_ways import Inputs
from compressm.families.lti.measured import Measured
from compressm.numerics import Reduction

# Relative errors below this are rounding, which no fit can gain on.
_NO_ERROR = 1e-6


class Refit(ABC):
    """A better system with the states of a reduction.

    Args:
        measured: the full layer.
        reduction: of it.
        inputs: reads the arguments of a call.
        module: the layer.

    Attributes:
        label: what it fits, in a few words for tables.
        needs: what has to be given.
        bounded: whether the H-infinity bound of the reduction still holds afterwards.
        of_modes: whether a choice of modes, which has the readout that fits it best, is refitted.
        probe: what has to see the data before `finish`.
        moves: whether poles and inputs become other ones, which a layer that can only select has no
            room for.
        joint: E of the states of the full and the reduced system on data, after `finish`, where it
            was recorded; or
        data_error: what that would tell, the relative error of the outputs on data.
        notes: what a reader of the event should know, after `finish`.
    """

    label: ClassVar[str]
    needs: ClassVar[Given] = "nothing"
    bounded: ClassVar[bool] = False
    of_modes: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    joint: Tensor | None = None
    data_error: float | None = None
    notes: tuple[str, ...] = ()

    def __init__(
        self, measured: Measured, reduction: Reduction, inputs: Inputs, module: nn.Module
    ) -> None:
        self.measured, self.reduction = measured, reduction
        self.probe = self.watch(inputs, module)

    @abstractmethod
    def watch(self, inputs: Inputs, module: nn.Module) -> Probe | None:
        """The probe, where there is one; called once."""

    @abstractmethod
    def finish(self) -> Reduction:
        """The reduction with the refitted system; called once, after `probe` has seen the data."""

    def judge(self, what: str, before: float | None, after: float | None) -> None:
        """Note a fit that left the error that there was, or more, where there was one."""
        if before is None or after is None or before <= _NO_ERROR or after < before:
            return
        self.notes += (f"{what} gained nothing: the error is {after:.2g} with and without it",)
