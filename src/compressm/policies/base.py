"""How many states to have: policies turn the spectra of all layers into a rank for each.

A policy says what it would like to keep (`targets`); the constraints that every policy shares
(`min_rank`, `multiple_of`, `gate`) are applied here, once. A new policy is one file with a class
that has `targets` and a `@register_policy` line.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, final

from compressm.arguments import real, whole
from compressm.errors import InputError
from compressm.registry import Registry
from compressm.spectrum import Spectrum

POLICIES: Registry[type[Policy]] = Registry("policy", "compressm.policies")
register_policy = POLICIES.register
"""Class decorator with a name, by which recipes and the command line know the policy."""


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
        grows: whether a target above N asks for new states; else such a layer is left alone.
    """

    grows: ClassVar[bool] = False

    _: KW_ONLY
    min_rank: int = 1
    multiple_of: int = 1
    gate: float = 0.95

    @final
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

    @final
    def plan(
        self, spectra: Mapping[str, Spectrum], model: LiveModel | None = None
    ) -> dict[str, int]:
        """The states to keep at each site; a site's own N means that it is left alone."""
        if isinstance(self, LivePolicy) and model is not None:
            targets = self.targets_of(spectra, model)
        else:
            targets = self.targets(spectra)
        return {site: self.constrain(targets[site], s.state_dim) for site, s in spectra.items()}

    @final
    def constrain(self, target: int, state_dim: int) -> int:
        """`target` under `min_rank`, `multiple_of` and `gate`."""
        rank = max(target, self.min_rank)
        rank = self.multiple_of * math.ceil(rank / self.multiple_of)
        if self.grows and target > state_dim:
            return rank
        return rank if rank < self.gate * state_dim else state_dim


@dataclass(frozen=True)
class LivePolicy(Policy):
    """A policy that must know the whole model, or try plans on it: see `LiveModel`."""

    @final
    def targets(self, spectra: Mapping[str, Spectrum]) -> Mapping[str, int]:
        raise InputError(
            f"{type(self).__name__} needs the live model; use compress_ or a Compressor"
        )

    @abstractmethod
    def targets_of(self, spectra: Mapping[str, Spectrum], model: LiveModel) -> Mapping[str, int]:
        """The states that the policy would keep at each site, before the shared constraints."""


class Bound(ABC):
    """Mixed into a policy whose limit can be checked against a plan as it can be carried out.

    That may keep more than was wanted: layers that must agree, ranks that a layer lacks.
    """

    @abstractmethod
    def broken(
        self, spectra: Mapping[str, Spectrum], states: Mapping[str, int], model: LiveModel
    ) -> str | None:
        """How the plan breaks the limit, in a line for the event; None where it holds."""
