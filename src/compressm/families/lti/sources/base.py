"""What a source of a Gramian is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from compressm.calibration import Given
from compressm.families.lti.driven_states import DrivenStates
from compressm.numerics.lti.gramians import Kind

# The Gramian of white noise over so many steps; None: over as many as the family counts, or all.
WhiteNoise = Callable[[int | None], Tensor]


class Source(ABC):
    """One way to a Gramian, P or Q.

    Attributes:
        label: what it looks at, in a word or two for tables.
        kind: what the Gramian is called.
        needs: what has to be given: nothing, data, or a loss too.
    """

    label: ClassVar[str]
    kind: ClassVar[Kind]
    needs: ClassVar[Given]

    @abstractmethod
    def gramian(self, white: WhiteNoise, driven: DrivenStates | None) -> Tensor:
        """The Gramian.

        Args:
            white: that of white noise, over so many steps.
            driven: the states on real data, where any source of the method needs them.
        """
