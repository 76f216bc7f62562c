"""What a measurement of one layer says: singular values, their energy, the error bound.

N states of the layer, r kept states, n singular values (n = N, or 2N when the layer's real-valued
map has two real coordinates for each complex state).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class StateCost:
    """What one stored state of a layer costs.

    Attributes:
        parameters: parameters that go when the state goes.
        state_bytes: bytes of recurrent state for each sequence that streams through the layer.
    """

    parameters: int = 0
    state_bytes: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Singular values of one layer, largest first, and what keeping r states would retain.

    Attributes:
        values: (n,) float64, non-negative, descending: Hankel singular values
            σ_i = sqrt(eig_i(P Q)), or the data-driven kin that `kind` names.
        state_dim: N, the states the layer has now.
        per_state: singular values that one stored state accounts for (2 for a complex state of a
            layer with real output, else 1).
        kind: where P and Q come from: "infinite", "finite", "empirical", "gradient", …
        guaranteed: whether 2 Σ_{i>m} σ_i bounds the H-infinity error of what the method makes with
            m directions (balanced truncation as it is, with infinite-horizon Gramians; Antoulas
            2005, section 7.2).
        room: singular values that r states hold, by r, where that can be fewer than `per_state` of
            each (real eigenvalues); it has to go through `pickle`. None: as many.
        left: what of Σσ keeping r = 0 … N states leaves, where that is not the sum of the values
            from r on: of contributions that make up for each other only together the first ones
            gain less than later ones, and `values` are then means. None: it is.
        cost: what each stored state costs, for policies with a budget.
        ranks: numbers of states, N among them, that the layer can have, where not every one is
            possible, and what of Σσ each of them leaves; None: all are.
        unseen: why nothing was measured (no data reached the layer, silence, …), and the values
            mean nothing; None where they were measured.
    """

    values: Tensor
    state_dim: int
    per_state: int = 1
    kind: str = "infinite"
    guaranteed: bool = True
    room: Callable[[int], int] | None = None
    left: Sequence[float] | None = None
    cost: StateCost = StateCost()
    ranks: Mapping[int, float] | None = None
    unseen: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that are not a spectrum."""
        values = self.values.detach().to(device="cpu", dtype=torch.float64)
        if values.ndim != 1 or not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
            raise InputError(
                "values: expected a vector of finite, non-negative singular values, "
                f"got shape {tuple(values.shape)} with range "
                f"[{values.min().item():.3g}, {values.max().item():.3g}]"
            )
        object.__setattr__(self, "values", values.sort(descending=True).values)

    @cached_property
    def _tail(self) -> Tensor:
        """Σ_{i>m} σ_i for m = 0 … n, summed from the small end so that tiny tails keep digits."""
        tail = self.values.flip(0).cumsum(0).flip(0)
        return torch.cat([tail, tail.new_zeros(1)])

    @property
    def total(self) -> float:
        """Σ σ_i over all singular values."""
        return float(self._tail[0])

    @property
    def numerical_rank(self) -> int:
        """States whose singular values stand above rounding (n ε σ_1)."""
        floor = len(self.values) * torch.finfo(torch.float64).eps * self.values[:1]
        above = int((self.values > floor).sum())
        return -(-above // self.per_state)

    def at_least(self, rank: int) -> int:
        """The fewest states that the layer can have, from `rank` on."""
        return rank if self.ranks is None else min(r for r in self.ranks if r >= rank)

    def at_most(self, rank: int) -> int:
        """The most states that the layer can have, up to `rank`; 0 where it cannot have so few."""
        if self.ranks is None:
            return rank
        return max((r for r in self.ranks if r <= rank), default=0)

    def discarded(self, rank: int) -> float:
        """Σ of the singular values that keeping `rank` states drops."""
        if not 0 <= rank <= self.state_dim:
            raise InputError(f"rank: expected 0 … {self.state_dim}, got {rank}")
        if self.ranks is not None:
            return self.ranks.get(self.at_most(rank), self.total)
        if self.left is not None:
            return self.left[rank]
        return float(self._tail[self.directions(rank)])

    def directions(self, rank: int) -> int:
        """How many of the leading singular values `rank` states hold."""
        held = min(rank * self.per_state, len(self.values))
        # The layer itself holds all of them.
        if self.room is None or rank == self.state_dim:
            return held
        return min(held, self.room(rank))

    def energy(self, rank: int, directions: int | None = None) -> float | None:
        """Share of Σσ that the leading `rank` states keep, in [0, 1].

        `directions`: as many as a cut has kept, where that is known.

        None where there is no share: nothing was measured, or the states do nothing at all.
        """
        if self.unseen or self.total == 0:
            return None
        discarded = self.discarded(rank)
        if directions is not None:
            discarded = max(discarded, float(self._tail[directions]))
        return max(0.0, 1.0 - discarded / self.total)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the singular values should know."""
        if self.unseen:
            return (f"not measured: {self.unseen}",)
        if self.total == 0:
            return ("its states do nothing: what drives or reads them is zero",)
        if self.ranks is not None:
            fewer = ", ".join(str(rank) for rank in sorted(self.ranks, reverse=True)[1:]) or "all"
            return (f"of its {self.state_dim} states it can keep {fewer} and no other number",)
        return ()

    @cached_property
    def by_state(self) -> Tensor:
        """(N,) Σ of the singular values that each stored state accounts for, descending.

        As if none of them were needed for a real eigenvalue alone, and none gained less than those
        behind it; `discarded` is what a number of states leaves.
        """
        missing = self.state_dim * self.per_state - len(self.values)
        padded = torch.nn.functional.pad(self.values, (0, missing))
        return padded.view(self.state_dim, self.per_state).sum(1)

    def rank_for_energy(self, tolerance: float) -> int:
        """Smallest r whose discarded share Σ_{i>r} σ_i / Σ σ_i is at most `tolerance`.

        N where nothing was measured: then nothing says that a state can go.
        """
        if not 0 <= tolerance < 1:
            raise InputError(f"tolerance: expected 0 <= tolerance < 1, got {tolerance}")
        if self.unseen:
            return self.state_dim
        allowed = tolerance * self.total
        # Rounding in the sum must not keep states that carry nothing.
        allowed += len(self.values) * torch.finfo(torch.float64).eps * self.total
        if self.room is None:
            every = range(self.state_dim)
            return next((r for r in every if self.discarded(r) <= allowed), self.state_dim)
        needed = int((self._tail > allowed).sum())
        # r states hold between r and 2r directions: from the fewest on, in growing steps, then
        # between the last two. How many directions there is room for is costly to know.
        low, step = -(-needed // self.per_state) - 1, 1
        high = low + 1
        while high < self.state_dim and self.directions(high) < needed:
            low, high, step = high, min(high + step, self.state_dim), 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            if self.directions(middle) < needed:
                low = middle
            else:
                high = middle
        return high

    def bound(self, rank: int) -> float | None:
        """2 Σ_{i>m} σ_i with the m directions that `rank` states hold, a bound on ||G - G_r||_∞.

        None where nothing is guaranteed: other Gramians, modes, and after a refit.
        """
        return 2.0 * self.discarded(rank) if self.guaranteed else None
