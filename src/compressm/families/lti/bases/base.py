"""What a basis for reductions is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from compressm.families.base import Which
from compressm.families.lti.measured import Measured
from compressm.numerics import Reduction


class Basis(ABC):
    """One way to fewer states.

    Attributes:
        bounded: whether, with Gramians of white noise, the H-infinity bound of balanced truncation
            holds for what it makes.
    """

    bounded: ClassVar[bool]

    @abstractmethod
    def reduce(
        self, measured: Measured, rank: int, *, which: Which, generator: torch.Generator
    ) -> Reduction:
        """A system of (at most) `rank` states; `indices` is set where they are existing modes."""
