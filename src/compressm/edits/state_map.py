"""Linear maps of the parameters of a group along their state axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from compressm.errors import InputError

# Of the tensors of a whole group; None for others.
LinearMap = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...] | None]


@final
@dataclass(frozen=True, eq=False)
class StateMap:
    """t' = Mᵀ t of the tensors of a group, stacked along `dim`.

    A complex tensor counts as two, its real part and behind it its imaginary part.

    Attributes:
        matrix: M, (sum of full sizes, sum of reduced sizes), real float64; (G, …, …) where each of
            the G groups, which lie along the axis before `dim`, has its own.
        dim: the state axis.
        pairs: real tensors hold complex numbers along their last axis, of length two, as
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

    def __call__(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """The images of all tensors of the group; None for some of them only."""
        parts = self.parts(tensors)
        if sum(t.shape[self.dim] for t in parts) != self.matrix.shape[-2]:
            return None
        return self.whole(self.of_parts(parts), tensors)

    def parts(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Real tensors, two for each that holds complex numbers."""
        parts: list[Tensor] = []
        for t in tensors:
            real = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
            parts += real.unbind(-1) if self._holds_pairs(t) else [real]
        return tuple(parts)

    def whole(self, parts: tuple[Tensor, ...], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The way back from `parts`."""
        left, out = iter(parts), []
        for t in like:
            if self._holds_pairs(t):
                real = torch.stack([next(left), next(left)], -1)
                out.append(torch.view_as_complex(real) if t.is_complex() else real)
            else:
                out.append(next(left))
        return tuple(out)

    def of_parts(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The images of real tensors."""
        along = self.matrix.ndim - 2
        stacked = torch.cat([self.front(t) for t in parts], along)
        flat = stacked.reshape(*stacked.shape[: along + 1], -1)
        dtype = torch.promote_types(flat.dtype, torch.float32)
        m = self.matrix.to(device=flat.device, dtype=dtype)
        moved = (m.mT @ flat.to(m.dtype)).to(flat.dtype)
        moved = moved.reshape(*moved.shape[: along + 1], *stacked.shape[along + 1 :])
        return tuple(self.back(part) for part in moved.chunk(len(parts), along))

    def length(self, t: Tensor) -> int:
        """Entries along the state axis, of all groups."""
        return t.shape[self.dim] * (t.shape[self.dim - 1] if self.matrix.ndim == 3 else 1)

    def front(self, t: Tensor) -> Tensor:
        """The state axis in front, behind that of the groups where there are some."""
        axes = range(self.dim - self.matrix.ndim + 2, self.dim + 1)
        return t.movedim(tuple(axes), tuple(range(len(axes))))

    def back(self, t: Tensor) -> Tensor:
        """The way back from `front`."""
        axes = range(self.dim - self.matrix.ndim + 2, self.dim + 1)
        return t.movedim(tuple(range(len(axes))), tuple(axes)).contiguous()

    def _holds_pairs(self, t: Tensor) -> bool:
        return self.pairs or t.is_complex()
