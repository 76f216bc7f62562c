"""How what lies beside a parameter follows when states are added to it.

A parameter p of N states becomes p' of N' > N: old entries keep their values, new ones stand beside
them. The new states change nothing at first, so accumulated gradients and first moments of theirs
are zero. Their second moments are not. Adam's step is

    lr m̂ / (v̂^(1/2) + ε),   m̂ = m / (1 - β₁^t),   v̂ = v / (1 - β₂^t),

with one count t for old and new entries. From v = 0 the first gradient g of a new entry, at a large
t, would make a step of lr (1 - β₁) / (1 - β₂)^(1/2), three times the learning rate with the usual β
(eleven times for ten steps in a row); a v that is too large would hold it back for 1 / (1 - β₂)
steps. Entries of one run (the same role and group) have gradients of one size where the layer is
initialised alike, so a new entry takes their mean along the state axis,

    v'_new = s² mean_{old entries of the run} v,

which has the bias of a count t already. s is the size of its first gradients beside those of old
ones: 1, or less where a new state can only be heard softly at first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from compressm.edits.transport import Transport
from compressm.errors import InputError


@final
@dataclass(frozen=True, eq=False)
class Growth(Transport):
    """States are added along `dim`; all other entries stay.

    Attributes:
        places: (L,) int64, where each old entry lies among the new ones.
        runs: (L',) int64, the run that each new entry belongs to, from 0 on; -1 for no state's.
        dim: the state axis.
        loudness: s, how large first gradients of new entries are beside those of old ones.
        factors: (L,) by which gradients of old entries grow, where they got another weight; None:
            they keep it.
        weights: (L,) by which values of old entries grow; None: they stay.

    Raises:
        InputError: places outside of the new axis, or factors or weights of another length.
    """

    places: Tensor
    runs: Tensor
    dim: int
    loudness: float = 1.0
    factors: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse places that say nothing."""
        old, new = self.places.shape, self.runs.shape
        fits = len(old) == len(new) == 1 and old[0] <= new[0]
        if not fits or not bool(((self.places >= 0) & (self.places < new[0])).all()):
            raise InputError(
                "places: expected (L,), the places of old entries among (L',) new ones, got "
                f"{tuple(old)} and {tuple(new)}"
            )
        for name, by in (("factors", self.factors), ("weights", self.weights)):
            if by is not None and by.shape != old:
                raise InputError(
                    f"{name}: expected the shape of places, {tuple(old)}, got {tuple(by.shape)}"
                )

    @property
    def exact(self) -> bool:
        return False

    @property
    def separate(self) -> bool:
        return True

    def first(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self._placed(tuple(self._scaled(t, self.factors) for t in tensors))

    def second(
        self, tensors: tuple[Tensor, ...], means: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, ...]:
        squares = None if self.factors is None else self.factors.square()
        return tuple(self._filled(self._scaled(t, squares)) for t in tensors)

    def kept(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Old entries with their weights in their new places, zeros beside them."""
        return self._placed(tuple(self._scaled(t, self.weights) for t in tensors))

    def _placed(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        out = []
        for t in tensors:
            shape = list(t.shape)
            shape[self.dim] = len(self.runs)
            out.append(t.new_zeros(shape).index_copy(self.dim, self.places.to(t.device), t))
        return tuple(out)

    def _filled(self, t: Tensor) -> Tensor:
        """With the mean of its run for every new entry."""
        (wide,) = self._placed((t,))
        fresh = torch.ones(len(self.runs), dtype=torch.bool, device="cpu")
        fresh[self.places] = False
        fresh &= self.runs >= 0
        runs, old = int(self.runs.max()) + 1, self.runs[self.places]
        counts = torch.bincount(old[old >= 0], minlength=runs).clamp_min(1)
        front = t.movedim(self.dim, 0)
        known = (old >= 0).nonzero()[:, 0].to(t.device)
        sums = front.new_zeros(runs, *front.shape[1:])
        sums = sums.index_add(0, old[old >= 0].to(t.device), front.index_select(0, known))
        shape = [-1] + [1] * (front.ndim - 1)
        means = self.loudness**2 * sums / counts.to(t.device).view(shape)
        at = fresh.nonzero()[:, 0].to(t.device)
        values = means.index_select(0, self.runs[fresh].to(t.device)).movedim(0, self.dim)
        return wide.index_copy(self.dim, at, values.to(wide.dtype).contiguous())

    def _scaled(self, t: Tensor, by: Tensor | None) -> Tensor:
        if by is None:
            return t
        return t * by.to(t).view([-1 if i == self.dim else 1 for i in range(t.ndim)])
