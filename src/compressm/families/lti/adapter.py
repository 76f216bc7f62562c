"""Everything that linear time-invariant layer families share: methods, measuring, reducing.

A family adds `read` (layer → StateSpace), `write` (Reduction → edits) and where its inputs are.
B batch, L length, H width, N states, r kept states.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from compressm import numerics
from compressm.calibration import Given, Probe, some
from compressm.edits import Edit
from compressm.errors import InputError
from compressm.families.base import Adapter, Draft, Measurement, Observer, Which
from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.lti.draft import LinearDraft, without_gain
from compressm.families.lti.driven_states import DrivenStates
from compressm.families.stored import with_values
from compressm.numerics import Gramians, HankelMatrix, Reduction, StateSpace
from compressm.spectrum import Spectrum


@dataclass(frozen=True, kw_only=True)
class Method:
    """How an LTI layer is measured and reduced.

    Attributes:
        controllability: P from white noise in closed form ("infinite") or from the states that
            real inputs drive ("empirical").
        observability: Q from white noise ("infinite") or from dLoss/dx on real data ("gradient").
        basis: reduce in balanced coordinates, or keep existing modes (greedy in the H2 sense).
        real_pairs: balance the real map behind y = Re(C x), not the complex system as it stands.
        refit: readout for the kept dynamics: as truncated ("none"), H2-optimal in closed form
            ("h2"), or least squares against the full layer's output on real inputs ("data").
            Greedy modes are always refitted with the moments that chose them.
    """

    controllability: Literal["infinite", "empirical"] = "infinite"
    observability: Literal["infinite", "gradient"] = "infinite"
    basis: Literal["balanced", "modes"] = "balanced"
    real_pairs: bool = True
    refit: Literal["none", "h2", "data"] = "none"

    @property
    def observes(self) -> bool:
        """Whether real inputs are needed to measure."""
        return self.controllability == "empirical" or self.observability == "gradient"

    @property
    def guaranteed(self) -> bool:
        """Whether the H-infinity bound of balanced truncation covers the layer as written."""
        return self.basis == "balanced" and self.refit == "none" and not self.observes

    @property
    def needs_data(self) -> bool:
        """Whether real inputs are needed at all."""
        return self.observes or self.refit == "data"


METHODS: dict[str, Method] = {
    "published": Method(real_pairs=False),  # arXiv 2510.02823 as its code has it
    "real-pairs": Method(),
    "real-pairs-h2": Method(refit="h2"),
    "real-pairs-data": Method(refit="data"),
    "empirical": Method(controllability="empirical"),
    "empirical-data": Method(controllability="empirical", refit="data"),
    "gradient": Method(controllability="empirical", observability="gradient"),
    "gradient-data": Method(controllability="empirical", observability="gradient", refit="data"),
    "modes-h2": Method(basis="modes", refit="h2"),
    "modes-data": Method(basis="modes", controllability="empirical", refit="data"),
}
# What "auto" means, by what there is to look at; docs/ablation.md is what the choice rests on.
DEFAULT_METHOD: dict[Given, str] = {
    "nothing": "real-pairs-h2",
    "data": "empirical-data",
    "loss": "gradient-data",
}


class LinearAdapter(Adapter):
    """Base of the LTI families."""

    @property
    def methods(self) -> dict[str, Method]:
        """The methods of these families by name."""
        return METHODS

    @abstractmethod
    def read(self, module: nn.Module) -> StateSpace:
        """The layer as a diagonal system in float64 on the CPU."""

    @abstractmethod
    def write(self, module: nn.Module, reduction: Reduction) -> Sequence[Edit]:
        """The edits that store a reduced diagonal system in the layer.

        `lift` and `project` are real, in the coordinates [Re x; Im x], for real-output systems.
        """

    def stored(self, module: nn.Module, edits: Sequence[Edit]) -> StateSpace:
        """The system that the layer will have, its new values rounded to its dtypes."""
        with torch.no_grad():
            return self.read(with_values(module, edits))

    @abstractmethod
    def inputs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """(u, mask) of one call of the layer: u (B, L, H), mask (B, L) or None."""

    def layout(self, module: nn.Module) -> Layout | None:
        """What `write` does to shapes when one state is there twice.

        None where the layer has no values here to try that with: on the meta device, in shards.
        """
        if any(p.is_meta or hasattr(p, "placements") for p in module.parameters()):
            return None
        N = self.state_dim(module)
        edits = self.write(
            module, _picked(self.read(module), torch.arange(N + 1, device="cpu") % N)
        )
        one: tuple[Role, ...] = ("state",)
        axes = {
            name: StateAxis(dim, roles=one * (new - now), tail=now - (new - now) * N)
            for edit in edits
            for name, old, value in zip(edit.names, edit.olds, edit.values, strict=True)
            for dim, (now, new) in enumerate(zip(old.shape, value.shape, strict=True))
            if now != new
        }
        return Layout(parameters=axes)

    @final
    def observe(self, module: nn.Module, method: str, *, given: Given) -> Observer:
        name = DEFAULT_METHOD[given] if method == "auto" else method
        if name not in METHODS:
            raise InputError(
                f"method: {self.family} layers know {', '.join(METHODS)} and auto, got {method!r}"
            )
        if METHODS[name].needs_data and given == "nothing":
            raise InputError(
                f"data: method {name!r} looks at real activations; pass data=<a few batches>"
            )
        if METHODS[name].observability == "gradient" and given != "loss":
            raise InputError(
                f"loss: method {name!r} weights states by the gradient of the loss; "
                "pass loss=lambda model, batch: <scalar>"
            )
        return LinearObserver(self, module, name)


def _picked(s: StateSpace, indices: Tensor) -> Reduction:
    """States as they are, some of them perhaps more than once."""
    embed = torch.eye(s.order, dtype=torch.float64, device="cpu")[:, indices]
    copies = torch.eye(2 if s.real_output else 1, dtype=torch.float64, device="cpu")
    lift = torch.kron(copies, embed)
    system = StateSpace(
        A=s.A[indices], B=s.B[indices], C=s.C[:, indices], D=s.D, real_output=s.real_output
    )
    return Reduction(system=system, lift=lift, project=lift.mT, rank=len(indices), indices=indices)


@final
class LinearObserver(Observer):
    """Reads the layer once; watches its inputs when the method asks for them."""

    def __init__(self, adapter: LinearAdapter, module: nn.Module, name: str) -> None:
        method = METHODS[name]
        self.adapter, self.module, self.method, self.runs = adapter, module, method, name
        self.system = adapter.read(module)
        self.system.require_stable()
        self._driven: DrivenStates | None = None
        if method.observes:
            gradient = method.observability == "gradient"
            self._driven = DrivenStates(
                adapter.inputs, module, self.system, needs_gradient=gradient
            )
            self.probe: Probe | None = self._driven

    @torch.no_grad()
    def as_read(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int, steps: int
    ) -> tuple[Tensor, Tensor | None] | None:
        if self.adapter.tensors is None:
            return None
        u, mask = some(*self.adapter.inputs(args, kwargs), rows, steps)
        counted = u if mask is None else torch.where(mask[..., None] > 0, u, 0)
        return numerics.simulated(self.system, counted), mask

    def measure(self) -> Measurement:
        method, driven = self.method, self._driven
        real = self.system.real_output and method.real_pairs
        kind: Literal["infinite", "empirical", "gradient"]
        white = numerics.cross_gramian(self.system, self.system, real=real)
        P, kind, unseen = white, "infinite", None if driven is None else driven.missing
        if driven is not None and method.controllability == "empirical":
            P, kind = torch.zeros_like(white) if unseen else driven.states.moment, "empirical"
        if driven is not None and driven.adjoint is not None:
            Q, kind = torch.zeros_like(white) if unseen else driven.adjoint.moment, "gradient"
        else:
            dual = numerics.adjoint(self.system)
            Q = numerics.cross_gramian(dual, dual, real=real)
        return LinearMeasurement(self, Gramians(P=P, Q=Q, real=real, kind=kind), white, unseen)


@final
class LinearMeasurement(Measurement):
    """Gramians and singular values of one layer, and the reductions they allow."""

    def __init__(
        self, observer: LinearObserver, gramians: Gramians, white: Tensor, unseen: str | None
    ) -> None:
        self.observer, self.gramians = observer, gramians
        # P under white noise; of the complex map it is no help with the norms of the real one.
        self.white = white if gramians.real or not observer.system.real_output else None
        self.balancing = numerics.balance(gramians.P, gramians.Q, pairs=gramians.real)
        order = observer.system.order
        self.spectrum = Spectrum(
            values=self.balancing.sigma,
            state_dim=order,
            per_state=len(self.balancing.sigma) // order,
            kind=gramians.kind,
            guaranteed=gramians.kind == "infinite",
            cost=observer.adapter.cost(observer.module),
            unseen=unseen,
        )

    def hankel_matrix(self) -> HankelMatrix:
        return numerics.hankel_matrix(self.gramians.P, self.gramians.Q)

    def reduce(self, rank: int, *, select: Which, generator: torch.Generator) -> Draft:
        method, system = self.observer.method, self.observer.system
        if method.basis == "modes" or self.balancing.numerical_rank == 0:
            # With nothing to balance (a dead layer), any modes do; the refit makes them exact.
            reduction = self._modes(rank, select, generator)
            return LinearDraft(self, reduction, refit_on_data=False)
        reduction = numerics.balanced_truncation(
            system, self.balancing, rank, which=select, generator=generator, strict=False
        )
        if reduction.order != self.balancing.numerical_rank:
            # Fewer states than asked for hold all there is only at full numerical rank.
            reduction = numerics.padded(system, reduction, rank)
        driven = numerics.with_idle_parts_driven(system, reduction.system)
        reduction = numerics.with_system(reduction, driven)
        if method.refit == "h2":
            refitted = numerics.h2_refit(system, reduction.system)
            notes = self._without_gain(reduction.system, refitted)
            reduction = replace(reduction, system=refitted, notes=(*reduction.notes, *notes))
        return LinearDraft(
            self,
            reduction,
            refit_on_data=method.refit == "data",
            # The bound is about the largest singular values.
            guaranteed=method.guaranteed and select == "largest",
        )

    def _without_gain(self, before: StateSpace, after: StateSpace) -> tuple[str, ...]:
        full, P = self.observer.system, self.white
        size = numerics.h2_norm(full, P=P)
        if not size > 0:
            return ()
        errors = (numerics.h2_error(full, reduced, P=P) / size for reduced in (before, after))
        return without_gain("the H2 refit", *errors)

    def _modes(self, rank: int, select: Which, generator: torch.Generator) -> Reduction:
        system = self.observer.system
        P = (self.gramians if self.gramians.real else numerics.gramians(system)).P
        if select == "random":
            indices = torch.randperm(system.order, generator=generator, device="cpu")[:rank]
        elif select == "smallest":
            # The modes that a greedy choice of all others leaves.
            indices = numerics.greedy_modes(system, P, system.order).indices[-rank:]
        else:
            indices = numerics.greedy_modes(system, P, rank).indices
        return numerics.mode_reduction(system, P, indices.sort().values)
