"""How what lies beside a group of parameters follows a reduction: gradients, moments, averages.

A layer with parameters p of a full state becomes one with parameters p' of a reduced state. Where
p ≈ M p' along the state axis, gradients go the other way, g' = Mᵀ g, and so do first moments;
second moments are variances of gradients, v' ≈ (M∘M)ᵀ v (exact for uncorrelated entries). Where an
optimizer keeps a mean m as well, and takes m² away from v, the variance is what is left,
v' = (M∘M)ᵀ (v - m²) + (Mᵀ m)².
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from compressm.errors import InputError


class Transport(ABC):
    """Carries tensors that live beside a group of parameters into the reduced coordinates."""

    @abstractmethod
    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Gradients and first moments, or None where no rule holds."""

    @abstractmethod
    def second(
        self, tensors: tuple[Tensor, ...], means: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...] | None:
        """Second moments, or None where no rule holds.

        Args:
            tensors: means of squared gradients v, or their variances.
            means: m, where the optimizer divides by the root of v - m², which must not become
                negative; None: it keeps no such mean.
        """

    @abstractmethod
    def kept(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Tensors of the parameters' kind (averages of them), or None where a basis changes."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether entries are kept as they are, so that any tensor beside them can be indexed."""

    @property
    @abstractmethod
    def separate(self) -> bool:
        """Whether each parameter of the group follows by itself, without the others."""


@final
@dataclass(frozen=True)
class Reset(Transport):
    """No rule holds (eigenvalues after a diagonalisation): the optimizer starts anew."""

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None

    def second(
        self, tensors: tuple[Tensor, ...], means: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...] | None:
        return None

    def kept(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None

    @property
    def exact(self) -> bool:
        return False

    @property
    def separate(self) -> bool:
        return True


@final
@dataclass(frozen=True, eq=False)
class Selection(Transport):
    """Existing states are kept: everything is indexed along `dim`.

    Attributes:
        indices: of the entries that stay: (r,), or (G, r) where each of the G groups, which lie
            along the axis before `dim`, keeps its own.
        dim: the state axis.
        factors: shaped as `indices`, by which gradients grow, where the kept states got another
            weight; None: they keep it, and all tensors are indexed.

    Raises:
        InputError: groups without an axis before `dim`, or factors of another shape.
    """

    indices: Tensor
    dim: int
    factors: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that say nothing."""
        shape = tuple(self.indices.shape)
        if len(shape) not in (1, 2) or (len(shape) == 2 and self.dim < 1):
            raise InputError(
                f"indices: expected (r,), or (G, r) with groups on the axis before dim, "
                f"got {shape} at dim {self.dim}"
            )
        if self.factors is not None and self.factors.shape != self.indices.shape:
            got = tuple(self.factors.shape)
            raise InputError(f"factors: expected the shape of indices, {shape}, got {got}")

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self._scaled(self.kept(tensors), self.factors)

    def second(
        self, tensors: tuple[Tensor, ...], means: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...]:
        squares = None if self.factors is None else self.factors.square()
        return self._scaled(self.kept(tensors), squares)

    @property
    def exact(self) -> bool:
        return self.factors is None

    @property
    def separate(self) -> bool:
        return True

    def kept(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(self._picked(t, self.indices.to(t.device)) for t in tensors)

    def _picked(self, t: Tensor, indices: Tensor) -> Tensor:
        if indices.ndim == 1:
            return t.index_select(self.dim, indices)
        where = indices.view(*indices.shape, *[1] * (t.ndim - self.dim - 1))
        shape = list(t.shape)
        shape[self.dim] = indices.shape[1]
        return t.gather(self.dim, where.expand(shape))

    def _scaled(self, tensors: tuple[Tensor, ...], by: Tensor | None) -> tuple[Tensor, ...]:
        if by is None:
            return tensors
        shaped = [by.to(t).view(*by.shape, *[1] * (t.ndim - self.dim - 1)) for t in tensors]
        return tuple(t * scale for t, scale in zip(tensors, shaped, strict=True))


@final
@dataclass(frozen=True, eq=False)
class Project(Transport):
    """A change of basis: the parameters, stacked along `dim`, obey p ≈ M p'.

    A complex parameter counts as two, its real part and behind it its imaginary part.

    Attributes:
        matrix: M, (sum of full sizes, sum of reduced sizes), real float64; (G, …, …) where each of
            the G groups, which lie along the axis before `dim`, has its own.
        dim: the state axis.
        pairs: real parameters hold complex numbers along their last axis, of length two, as
            `torch.view_as_real` makes them; they count as complex ones do.

    Raises:
        InputError: no matrix, or groups without an axis before `dim`.
    """

    matrix: Tensor
    dim: int
    pairs: bool = False

    def __post_init__(self) -> None:
        """Refuse shapes that say nothing."""
        if self.matrix.ndim not in (2, 3) or self.dim < self.matrix.ndim - 2:
            raise InputError(
                "matrix: expected (full, reduced), or (G, full, reduced) with groups on the axis "
                f"before dim, got {tuple(self.matrix.shape)} at dim {self.dim}"
            )

    @property
    def exact(self) -> bool:
        return False

    @property
    def separate(self) -> bool:
        return False

    def kept(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self._whole(self._apply(self.matrix, self._parts(tensors)), tensors)

    def second(
        self, tensors: tuple[Tensor, ...], means: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...]:
        parts = self._parts(tensors)
        if means is None:
            moved = self._apply(self.matrix.square(), parts)
        else:
            m = tuple(t.to(v) for t, v in zip(self._parts(means), parts, strict=True))
            left = tuple((v - t.square()).clamp_min(0) for v, t in zip(parts, m, strict=True))
            moved = self._apply(self.matrix.square(), left)
            new = self._apply(self.matrix, m)
            moved = tuple(v + t.square() for v, t in zip(moved, new, strict=True))
        # A direction with no image (the imaginary part of a real mode) would get zero variance,
        # and Adam would take its first steps there several times too long.
        blank = (self.matrix == 0).all(-2)
        if not bool(blank.any()):
            return self._whole(moved, tensors)
        out = []
        seen = (~blank).sum().to(moved[0].device) * (moved[0].numel() // self._length(moved[0]))
        mean = torch.cat([self._front(t).flatten() for t in moved]).sum() / seen.clamp_min(1)
        for t, empty in zip(moved, blank.chunk(len(moved), -1), strict=True):
            filled = self._front(t).clone()
            filled[empty.to(t.device)] = mean
            out.append(self._back(filled))
        return self._whole(tuple(out), tensors)

    def _parts(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Real tensors, two for each that holds complex numbers."""
        parts: list[Tensor] = []
        for t in tensors:
            real = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
            parts += real.unbind(-1) if self._holds_pairs(t) else [real]
        return tuple(parts)

    def _whole(self, parts: tuple[Tensor, ...], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The way back from `_parts`."""
        left, out = iter(parts), []
        for t in like:
            if self._holds_pairs(t):
                real = torch.stack([next(left), next(left)], -1)
                out.append(torch.view_as_complex(real) if t.is_complex() else real)
            else:
                out.append(next(left))
        return tuple(out)

    def _holds_pairs(self, t: Tensor) -> bool:
        return self.pairs or t.is_complex()

    def _apply(self, matrix: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        along = matrix.ndim - 2
        stacked = torch.cat([self._front(t) for t in tensors], along)
        flat = stacked.reshape(*stacked.shape[: along + 1], -1)
        m = matrix.to(device=flat.device, dtype=torch.promote_types(flat.dtype, torch.float32))
        moved = (m.mT @ flat.to(m.dtype)).to(flat.dtype)
        moved = moved.reshape(*moved.shape[: along + 1], *stacked.shape[along + 1 :])
        return tuple(self._back(part) for part in moved.chunk(len(tensors), along))

    def _length(self, t: Tensor) -> int:
        """Entries along the state axis, of all groups."""
        return t.shape[self.dim] * (t.shape[self.dim - 1] if self.matrix.ndim == 3 else 1)

    def _front(self, t: Tensor) -> Tensor:
        """The state axis in front, behind that of the groups where there are some."""
        axes = range(self.dim - self.matrix.ndim + 2, self.dim + 1)
        return t.movedim(tuple(axes), tuple(range(len(axes))))

    def _back(self, t: Tensor) -> Tensor:
        axes = range(self.dim - self.matrix.ndim + 2, self.dim + 1)
        return t.movedim(tuple(range(len(axes))), tuple(axes)).contiguous()
