"""How what lies beside a group of parameters follows a reduction: gradients, moments, averages.

A layer with parameters p of a full state becomes one with parameters p' of a reduced state. Where
p ≈ M p' along the state axis, gradients go the other way, g' = Mᵀ g, and so do first moments;
second moments are variances of gradients, v' ≈ (M∘M)ᵀ v (exact for uncorrelated entries). Where an
optimizer keeps a mean m as well, and takes m² away from v, the variance is what is left,
v' = (M∘M)ᵀ (v - m²) + (Mᵀ m)².
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from compressm.edits.state_map import LinearMap, StateMap
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
        """Tensors of the parameters' kind (averages of them), by the linear map that made the new
        values of the old ones as far as one did; None where none did."""

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
        weights: shaped as `indices`, by which values grew; None: they stay, or a fit changed them.
        made: the linear map that made the values of those of the whole group, where they are more
            than kept and weighted (a refitted readout, a mix of all old rows).

    Raises:
        InputError: groups without an axis before `dim`, or factors or weights of another shape.
    """

    indices: Tensor
    dim: int
    factors: Tensor | None = None
    weights: Tensor | None = None
    made: LinearMap | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that say nothing."""
        shape = tuple(self.indices.shape)
        if len(shape) not in (1, 2) or (len(shape) == 2 and self.dim < 1):
            raise InputError(
                f"indices: expected (r,), or (G, r) with groups on the axis before dim, "
                f"got {shape} at dim {self.dim}"
            )
        for name, by in (("factors", self.factors), ("weights", self.weights)):
            if by is not None and by.shape != self.indices.shape:
                got = tuple(by.shape)
                raise InputError(f"{name}: expected the shape of indices, {shape}, got {got}")

    def weighted(self, by: Tensor) -> Selection:
        """The same choice, with values that grow by (…) further weights and gradients that shrink
        by them."""
        factors, weights = (
            torch.ones_like(by) if old is None else old for old in (self.factors, self.weights)
        )
        return replace(self, factors=factors / by, weights=weights * by)

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self._scaled(self._picked(tensors), self.factors)

    def second(
        self, tensors: tuple[Tensor, ...], means: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...]:
        squares = None if self.factors is None else self.factors.square()
        return self._scaled(self._picked(tensors), squares)

    @property
    def exact(self) -> bool:
        return self.factors is None

    @property
    def separate(self) -> bool:
        return True

    def kept(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        made = None if self.made is None else self.made(tensors)
        return self._scaled(self._picked(tensors), self.weights) if made is None else made

    def _picked(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(self._pick(t, self.indices.to(t.device)) for t in tensors)

    def _pick(self, t: Tensor, indices: Tensor) -> Tensor:
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

    Attributes:
        matrix, dim, pairs: M, the state axis, and whether real parameters hold complex numbers, see
            `StateMap`.
        made: the linear map that made the values of the old ones, where what else makes the layer
            (its eigenvalues) stays; None: averages start anew from the new values.

    Raises:
        InputError: no matrix, or groups without an axis before `dim`.
    """

    matrix: Tensor
    dim: int
    pairs: bool = False
    made: LinearMap | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that say nothing."""
        self._map(self.matrix)

    @property
    def exact(self) -> bool:
        return False

    @property
    def separate(self) -> bool:
        return False

    def kept(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if self.made is None else self.made(tensors)

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        back = self._map(self.matrix)
        return back.whole(back.of_parts(back.parts(tensors)), tensors)

    def second(
        self, tensors: tuple[Tensor, ...], means: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...]:
        back, squared = self._map(self.matrix), self._map(self.matrix.square())
        parts = back.parts(tensors)
        if means is None:
            moved = squared.of_parts(parts)
        else:
            m = tuple(t.to(v) for t, v in zip(back.parts(means), parts, strict=True))
            left = tuple((v - t.square()).clamp_min(0) for v, t in zip(parts, m, strict=True))
            pairs = zip(squared.of_parts(left), back.of_parts(m), strict=True)
            moved = tuple(v + t.square() for v, t in pairs)
        # A direction with no image (the imaginary part of a real mode) would get zero variance,
        # and Adam would take its first steps there several times too long.
        blank = (self.matrix == 0).all(-2)
        if not bool(blank.any()):
            return back.whole(moved, tensors)
        out = []
        seen = (~blank).sum().to(moved[0].device) * (moved[0].numel() // back.length(moved[0]))
        mean = torch.cat([back.front(t).flatten() for t in moved]).sum() / seen.clamp_min(1)
        for t, empty in zip(moved, blank.chunk(len(moved), -1), strict=True):
            filled = back.front(t).clone()
            filled[empty.to(t.device)] = mean
            out.append(back.back(filled))
        return back.whole(tuple(out), tensors)

    def _map(self, matrix: Tensor) -> StateMap:
        return StateMap(matrix, self.dim, self.pairs)
