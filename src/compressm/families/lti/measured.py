"""What is known of one linear layer when it is reduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from compressm.numerics import Balancing, Gramians, StateSpace


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A layer as it was read, with its Gramians.

    Attributes:
        system: the full system.
        gramians: from the sources of the method.
        balancing: of these.
        white: P under white noise, for norms; None where it is that of the complex map, which is
            no help with the norms of the real one.
        driven: whether P comes from real data.
        horizon: steps over which white noise counts; None: for all time.
        real_readout: y = C Re x: imaginary parts cannot be read, only what they do later.
    """

    system: StateSpace
    gramians: Gramians
    balancing: Balancing
    white: Tensor | None
    driven: bool
    horizon: int | None
    real_readout: bool
