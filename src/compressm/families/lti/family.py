"""What a linear time-invariant family says about its layers.

B batch, L length, H width, N states, r kept states.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from compressm.edits import Edit
from compressm.families.base import Adapter
from compressm.families.growing import Growing
from compressm.families.layout import Layout
from compressm.families.lti.growing import grown_edits, require_growable
from compressm.families.stored import with_values
from compressm.numerics import Reduction, StateSpace


class LinearFamily(Adapter, Growing):
    """Layers that can be read as diagonal systems, and written.

    Attributes:
        only_selects: why such layers can keep existing states, as they are, and no others; None:
            they can store any stable diagonal system.
        horizon: white noise counts over so many steps, where states need not decay and a Gramian
            for all time need not exist; None: for all time.
        real_readout: the layer stores one number for a state and an output: y = C Re x, C real.
    """

    only_selects: ClassVar[str | None] = None
    horizon: ClassVar[int | None] = None
    real_readout: ClassVar[bool] = False

    @abstractmethod
    def layout(self, module: nn.Module) -> Layout:
        """Where the states are in each of its parameters, and which sizes it stores."""

    @final
    def state_dim(self, module: nn.Module) -> int:
        return self.layout(module).state_dim(module)

    @abstractmethod
    def read(self, module: nn.Module) -> StateSpace:
        """The layer as a diagonal system in float64 on the CPU.

        A layer of many small systems side by side, one for each channel, has them as groups.
        """

    @abstractmethod
    def write(self, module: nn.Module, reduction: Reduction) -> Sequence[Edit]:
        """The edits that store a reduced diagonal system in the layer.

        `lift` and `project` are real, in the coordinates [Re x; Im x], for real-output systems;
        `compressm.families.lti.writing` has the algebra of scales and signs.
        """

    @abstractmethod
    def inputs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """(u, mask) of one call of the layer: u (B, L, H), mask (B, L) or None."""

    @final
    def grows_to(self, module: nn.Module, states: int) -> int:
        require_growable(self.family, module, self.layout(module))
        return states

    @final
    def grown(self, module: nn.Module, states: int, generator: torch.Generator) -> Sequence[Edit]:
        return grown_edits(module, self.layout(module), self.read, states, generator)

    @final
    def stored(self, module: nn.Module, edits: Sequence[Edit]) -> StateSpace:
        """The system that the layer will have, its new values rounded to its dtypes."""
        with torch.no_grad():
            return self.read(with_values(module, edits))
