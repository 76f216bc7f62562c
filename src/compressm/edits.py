"""What a reduction changes in a model, and how optimizer state follows; nothing is changed here.

A layer with parameters p of a full state becomes one with parameters p' of a reduced state. Where
p ≈ M p' along the state axis, gradients go the other way, g' = Mᵀ g, and so do first moments;
second moments are variances of gradients, v' ≈ (M∘M)ᵀ v (exact for uncorrelated entries).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from compressm.errors import InputError


class Transport(ABC):
    """Carries tensors that live beside a group of parameters into the reduced coordinates."""

    @abstractmethod
    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Gradients and first moments, or None where no rule holds."""

    @abstractmethod
    def second(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Second moments, or None where no rule holds."""

    @property
    def exact(self) -> bool:
        """Whether any tensor of the parameter's shape follows by the rule for first moments."""
        return False


@final
@dataclass(frozen=True)
class Reset(Transport):
    """No rule holds (eigenvalues after a diagonalisation): the optimizer starts anew."""

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None

    def second(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None


@final
@dataclass(frozen=True, eq=False)
class Select(Transport):
    """Existing states are kept as they are: everything is indexed along `dim`, exactly."""

    indices: Tensor
    dim: int

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t.index_select(self.dim, self.indices.to(t.device)) for t in tensors)

    def second(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.first(tensors)

    @property
    def exact(self) -> bool:
        return True


@final
@dataclass(frozen=True, eq=False)
class Project(Transport):
    """A change of basis: the group, stacked along `dim`, obeys p ≈ M p'.

    Attributes:
        matrix: M, (sum of full sizes, sum of reduced sizes), real float64.
        dim: the state axis.
    """

    matrix: Tensor
    dim: int

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self._apply(self.matrix, tensors)

    def second(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        moved = self._apply(self.matrix.square(), tensors)
        # A direction with no image (the imaginary part of a real mode) would get zero variance,
        # and Adam would take its first steps there several times too long.
        blank = (self.matrix == 0).all(0)
        if not bool(blank.any()):
            return moved
        parts, out = blank.chunk(len(moved)), []
        mean = torch.cat([t.movedim(self.dim, 0).flatten() for t in moved]).sum() / (
            (~blank).sum().to(moved[0].device) * (moved[0].numel() // moved[0].shape[self.dim])
        )
        for t, empty in zip(moved, parts, strict=True):
            filled = t.movedim(self.dim, 0).clone()
            filled[empty.to(t.device)] = mean
            out.append(filled.movedim(0, self.dim).contiguous())
        return tuple(out)

    def _apply(self, matrix: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        stacked = torch.cat([t.movedim(self.dim, 0) for t in tensors])
        flat = stacked.reshape(stacked.shape[0], -1)
        m = matrix.to(device=flat.device, dtype=torch.promote_types(flat.dtype, torch.float32))
        moved = (m.mT @ flat.to(m.dtype)).to(flat.dtype)
        moved = moved.reshape(-1, *stacked.shape[1:])
        parts = moved.chunk(len(tensors))
        return tuple(part.movedim(0, self.dim).contiguous() for part in parts)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """New values for a group of parameters of one module.

    Attributes:
        module: the live module.
        names: its parameters that change together.
        values: the new value of each, same order; dtype and device follow the old parameter.
        transport: how optimizer state of the group follows.
    """

    module: nn.Module
    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    transport: Transport

    def __post_init__(self) -> None:
        """Refuse edits that cannot be applied, before anything is touched."""
        for name, value in zip(self.names, self.values, strict=True):
            old = self.module._parameters.get(name)
            if old is None:
                raise InputError(
                    f"edit: {type(self.module).__name__} has no parameter {name!r}, "
                    f"only {', '.join(self.module._parameters)}"
                )
            if not bool(torch.isfinite(value).all()):
                raise InputError(
                    f"edit: the new {name} of {type(self.module).__name__} has NaN/inf"
                )
            if value.ndim != old.ndim:
                raise InputError(
                    f"edit: {name} has {old.ndim} dimensions, the new value has {value.ndim}"
                )
