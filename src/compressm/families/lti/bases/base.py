"""What a basis for reductions is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from compressm.families.base import Which
from compressm.families.lti.measured import Measured
from compressm.numerics import HankelMatrix, Reduction


class Basis(ABC):
    """One way to fewer states.

    Attributes:
        label: which states it makes, in a few words for tables.
        balances: whether it looks at the Gramians, so that their sources and pairs matter.
        bounded: whether, with Gramians of white noise, the H-infinity bound of balanced truncation
            holds for what it makes.
        selects: whether all that it keeps are existing modes.
        endless: whether it looks at what states do in all time, whatever the Gramians are of.
    """

    label: str
    balances: ClassVar[bool]
    bounded: ClassVar[bool]
    selects: ClassVar[bool]
    endless: bool

    @abstractmethod
    def values(self, measured: Measured) -> Tensor:
        """What it ranks states by, (n,) or (G, n), descending."""

    @abstractmethod
    def hankel_matrix(self, measured: Measured) -> HankelMatrix:
        """Hermitian, with these eigenvalues, in coordinates that persist over training."""

    @abstractmethod
    def reduce(
        self, measured: Measured, rank: int, *, which: Which, generator: torch.Generator
    ) -> Reduction:
        """A system of (at most) `rank` states; `indices` is set where they are existing modes."""
