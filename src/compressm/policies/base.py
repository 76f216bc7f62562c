"""How many states to keep: policies turn the spectra of all layers into a rank for each.

A policy says what it would like to keep (`targets`); the constraints that every policy shares
(`min_rank`, `multiple_of`, `gate`) are applied here, once. A new policy is a class with `targets`
and a `@register_policy` line.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import TypeVar, final

from compressm.arguments import real, share, whole
from compressm.errors import InputError
from compressm.spectrum import Spectrum

POLICIES: dict[str, type[Policy]] = {}
P = TypeVar("P", bound="Policy")


def register_policy(name: str) -> Callable[[type[P]], type[P]]:
    """Make a policy class known to recipes and the command line under `name`."""

    def add(cls: type[P]) -> type[P]:
        POLICIES[name] = cls
        return cls

    return add


@dataclass(frozen=True, kw_only=True)
class LiveModel:
    """What a policy may ask of the model beyond its spectra.

    Attributes:
        parameters: of the whole model now.
        trial: `with trial(plan):` has the model as the plan would leave it, inside only.
        evaluate: calls what it is given and returns the mean over all ranks, so that they decide
            alike; policies evaluate through it.
        wait: returns when the devices of the model have done all that they were given.
        notes: lines that a policy adds here end up in the event.
    """

    parameters: int
    trial: Callable[[Mapping[str, int]], AbstractContextManager[object]]
    evaluate: Callable[[Callable[[], float]], float] = lambda metric: float(metric())
    wait: Callable[[], None] = lambda: None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Policy(ABC):
    """Chooses the rank of each layer from its spectrum.

    Attributes:
        min_rank: never keep fewer states than this (or than the layer has).
        multiple_of: round the kept states up to a multiple of this, for kernels that pad.
        gate: cut only when the new rank is below gate * N; a cut of a few states costs a
            measurement and a recompilation and buys nothing (arXiv 2510.02823, section 3: 0.95).
    """

    _: KW_ONLY
    min_rank: int = 1
    multiple_of: int = 1
    gate: float = 0.95

    def __post_init__(self) -> None:
        """Validate the shared constraints, then the policy's own."""
        for name in ("min_rank", "multiple_of"):
            self.take(name, whole(name, getattr(self, name), 1))
        if not 0 < real("gate", self.gate) <= 1:
            raise InputError(f"gate: expected 0 < gate <= 1, got {self.gate!r}")
        self.validate()

    @final
    def take(self, name: str, value: object) -> None:
        """Store a setting as it was understood (a NumPy integer as an int); for `validate`."""
        object.__setattr__(self, name, value)

    @abstractmethod
    def validate(self) -> None:
        """Refuse unusable settings with an `InputError`."""

    @abstractmethod
    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        """The states that the policy would keep at each site, before the shared constraints."""

    def plan(
        self, spectra: Mapping[str, Spectrum], model: LiveModel | None = None
    ) -> dict[str, int]:
        """The states to keep at each site; a site's own N means that it is left alone."""
        targets = self.targets(spectra)
        return {site: self.constrain(targets[site], s.state_dim) for site, s in spectra.items()}

    @final
    def constrain(self, target: int, state_dim: int) -> int:
        """`target` under `min_rank`, `multiple_of` and `gate`."""
        rank = max(target, self.min_rank)
        rank = self.multiple_of * math.ceil(rank / self.multiple_of)
        return rank if rank < self.gate * state_dim else state_dim


@final
@register_policy("energy")
@dataclass(frozen=True)
class EnergyTolerance(Policy):
    """Keep the smallest r with Σ_{i>r} σ_i <= tolerance Σ σ_i, layer by layer.

    `tolerance` is the share of energy discarded (arXiv 2510.02823, section 3, τ).
    """

    tolerance: float

    def validate(self) -> None:
        self.take("tolerance", share("tolerance", self.tolerance, below_one=True))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return {site: s.rank_for_energy(self.tolerance) for site, s in spectra.items()}


@final
@register_policy("global-energy")
@dataclass(frozen=True)
class GlobalEnergy(Policy):
    """Rank the states of all layers against each other and discard `tolerance` of all energy.

    Each layer's singular values are divided by their sum first (layers differ in gain, which a
    norm removes), unless `normalise` is false. Layers whose energy sits in few states are cut
    harder than layers with a flat spectrum.
    """

    tolerance: float
    _: KW_ONLY
    normalise: bool = True

    def validate(self) -> None:
        self.take("tolerance", share("tolerance", self.tolerance, below_one=True))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        # A layer of which nothing was measured stays as it is.
        ranks = {site: s.state_dim if s.unseen else 0 for site, s in spectra.items()}
        pool: list[tuple[float, str]] = []
        for site, s in spectra.items():
            if s.unseen:
                continue
            scale = s.total if self.normalise and s.total > 0 else 1.0
            pool += [(float(energy) / scale, site) for energy in s.by_state]
        # Within a layer the energies descend, so the kept ones are always its leading states.
        pool.sort(key=lambda entry: -entry[0])
        needed = (1 - self.tolerance) * math.fsum(energy for energy, _ in pool)
        kept = 0.0
        for energy, site in pool:
            if kept >= needed or energy == 0:
                break
            kept += energy
            ranks[site] += 1
        return ranks


@final
@register_policy("fraction")
@dataclass(frozen=True)
class FixedFraction(Policy):
    """Keep the given fraction of each layer's present states, rounded up."""

    keep: float

    def validate(self) -> None:
        self.take("keep", share("keep", self.keep))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return {site: math.ceil(self.keep * s.state_dim) for site, s in spectra.items()}


@final
@register_policy("rank")
@dataclass(frozen=True)
class FixedRank(Policy):
    """Keep `rank` states in every layer (a layer that has no more is left alone).

    An exact rank was asked for, so the gate, which spares tiny cuts, is open by default.
    """

    rank: int
    _: KW_ONLY
    gate: float = 1.0

    def validate(self) -> None:
        self.take("rank", whole("rank", self.rank, 1))

    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        return dict.fromkeys(spectra, self.rank)
