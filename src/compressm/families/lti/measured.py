"""What is known of one linear layer when it is reduced."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from torch import Tensor

from compressm import numerics
from compressm.families.lti.driven_states import DrivenStates
from compressm.families.lti.sources import Source
from compressm.numerics import Balancing, Gramians, StateSpace
from compressm.numerics.lti.gramians import Kind


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A layer as it was read, with its Gramians, each computed when it is asked for.

    Attributes:
        system: the full system.
        controllability: where P comes from.
        observability: where Q comes from.
        seen: the states on real data, where a source needs them.
        real: the Gramians are those of the real map, not of the complex system as it stands.
        horizon: steps over which white noise counts; None: for all time.
        real_readout: y = C Re x: imaginary parts cannot be read, only what they do later.
    """

    system: StateSpace
    controllability: Source
    observability: Source
    seen: DrivenStates | None
    real: bool
    horizon: int | None
    real_readout: bool

    @property
    def kind(self) -> Kind:
        """What the Gramians are called."""
        white = self.observability.needs == "nothing"
        kind = (self.controllability if white else self.observability).kind
        return "finite" if kind == "infinite" and self.horizon is not None else kind

    @property
    def driven(self) -> bool:
        """Whether P comes from real data."""
        return self.controllability.needs != "nothing"

    @property
    def white(self) -> Tensor | None:
        """P under white noise, for norms; None where it is that of the complex map, which is no
        help with the norms of the real one."""
        return self._white if self.real or not self.system.real_output else None

    @cached_property
    def P(self) -> Tensor:
        """The controllability Gramian, from its source."""
        return self.controllability.gramian(self._white_noise, self.seen)

    @cached_property
    def gramians(self) -> Gramians:
        """P and Q, from the sources of the method."""
        dual = numerics.adjoint(self.system)
        Q = self.observability.gramian(lambda steps: self._white_of(dual, steps), self.seen)
        return Gramians(P=self.P, Q=Q, real=self.real, kind=self.kind)

    @cached_property
    def balancing(self) -> Balancing:
        """Of these Gramians; in closed form where one is known."""
        if self._closed:
            return numerics.balance_closed(self.system)
        return numerics.balance(self.gramians.P, self.gramians.Q, pairs=self.real)

    @property
    def _closed(self) -> bool:
        endless = self.kind == "infinite" and self.controllability.needs == "nothing"
        return endless and self.real and numerics.has_closed_form(self.system)

    @cached_property
    def _white(self) -> Tensor:
        if self._closed:
            S = self.balancing.S
            return S @ S.mT
        return self._white_of(self.system, None)

    def _white_noise(self, steps: int | None) -> Tensor:
        return self._white if steps is None else self._white_of(self.system, steps)

    def _white_of(self, system: StateSpace, steps: int | None) -> Tensor:
        steps = self.horizon if steps is None else steps
        return numerics.cross_gramian(system, system, horizon=steps, real=self.real)
