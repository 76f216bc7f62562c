"""Where the states of a layer are in its parameters: said once, and everything else follows.

From one declaration come the parameters of a site and what a state costs of them, which entries a
choice of states keeps, sizes that the layer stores, what a smaller checkpoint means, and how a
layer is padded with zeros. Shapes are looked at, no values.

N states before, r after, G groups that each choose their own states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from compressm.edits import Growth, holder_of
from compressm.errors import InputError

# What a run of entries does: it makes keys (rows of B), queries (rows of C), decays; or all of it.
Role = Literal["state", "write", "read", "decay"]
# What a number is for N states: so many times N, or what a function makes of it.
Size = int | Callable[[int], int | float]


@final
@dataclass(frozen=True)
class StateAxis:
    """The axis of one parameter that has entries for every state.

    Along it lie `lead` entries of something else, then runs of one entry for each state, then
    `tail` other entries. There is a run for each role and group: all groups of the first role, then
    all of the next; or, with a `gap`, all roles of the first group and so many other entries, then
    the next group. There some roles can be a strand: one entry of each for the first state, one of
    each for the second, and so on.

    Attributes:
        dim: the axis.
        roles: what the runs of one group do, in their order.
        groups: G.
        lead: entries before the first run.
        tail: entries behind the last.
        gap: other entries behind the runs of each group; None: groups do not lie together.
        strands: with a gap, how many roles in a row each strand has; empty: one each.
        skips: and how many other entries lie before each strand; empty: none.
    """

    dim: int
    roles: tuple[Role, ...] = ("state",)
    groups: int = 1
    lead: int = 0
    tail: int = 0
    gap: int | None = None
    strands: tuple[int, ...] = ()
    skips: tuple[int, ...] = ()

    @property
    def blocks(self) -> int:
        """Entries that go when every group loses one state."""
        return len(self.roles) * self.groups

    @property
    def _others(self) -> int:
        """Entries that belong to no state."""
        return self.lead + self.tail + self.groups * ((self.gap or 0) + sum(self.skips))

    def count(self, length: int) -> int | None:
        """N of an axis of this length; None where it fits no number."""
        states, over = divmod(length - self._others, self.blocks)
        return states if over == 0 and states >= 1 else None

    def shape(self, present: torch.Size, states: int, wanted: int) -> torch.Size:
        """The shape with `wanted` states of a parameter that has `states` now."""
        sizes = list(present)
        sizes[self.dim] += self.blocks * (wanted - states)
        return torch.Size(sizes)

    def states(self, present: torch.Size, states: int, other: torch.Size) -> int | None:
        """How many states a parameter of another shape has; None where it fits no number."""
        if len(other) != len(present):
            return None
        more, rest = divmod(other[self.dim] - present[self.dim], self.blocks)
        found = states + more
        fits = rest == 0 and found >= 1 and self.shape(present, states, found) == other
        return found if fits else None

    def entries(self, states: int) -> Tensor:
        """(roles, G, N) int64, where the entries of each state lie."""
        state = torch.arange(states, device="cpu")
        if self.gap is None:
            role = torch.arange(len(self.roles), device="cpu")[:, None]
            starts = (role * self.groups + torch.arange(self.groups, device="cpu")) * states
            return (self.lead + starts)[..., None] + state
        runs, start = [], 0
        strands = self.strands or (1,) * len(self.roles)
        for width, skip in zip(strands, self.skips or (0,) * len(strands), strict=True):
            start += skip
            runs += [start + strand + width * state for strand in range(width)]
            start += width * states
        group = torch.arange(self.groups, device="cpu")[:, None] * (start + self.gap)
        return self.lead + group + torch.stack(runs)[:, None]

    def rows(self, role: Role, states: int) -> Tensor:
        """(G N,) where the entries of one role lie; empty where the parameter has none."""
        at = [i for i, name in enumerate(self.roles) if name == role]
        return self.entries(states)[at].flatten()

    def kept(self, states: int, indices: Tensor) -> Tensor:
        """The entries that stay, in order, when each group keeps the states `indices` (G, r).

        Raises:
            InputError: there are other groups.
        """
        if indices.ndim != 2 or len(indices) != self.groups:
            raise InputError(
                f"indices: expected ({self.groups}, r), one row for each group, "
                f"got {tuple(indices.shape)}"
            )
        old = self.entries(states)
        new = self.entries(indices.shape[1])
        kept = torch.full((self._others + new.numel(),), -1, device="cpu")
        kept[new] = old.gather(2, indices.cpu().expand(len(self.roles), -1, -1))
        other = torch.ones(self._others + old.numel(), dtype=torch.bool, device="cpu")
        other[old] = False
        kept[kept < 0] = other.nonzero()[:, 0]
        return kept

    def first(self, value: Tensor, states: int, wanted: int) -> Tensor:
        """The values of the first `wanted` states, where there are `states`; again from the first
        one on where that is more."""
        indices = (torch.arange(wanted, device="cpu") % states).expand(self.groups, -1)
        return value.index_select(self.dim, self.kept(states, indices).to(value.device))

    def padded(self, value: Tensor, states: int, wanted: int) -> Tensor:
        """The value with `wanted` states, the new entries of which are zero."""
        return self.growth(states, wanted).kept((value,))[0]

    def growth(
        self,
        states: int,
        wanted: int,
        *,
        loudness: float = 1.0,
        factors: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Growth:
        """How what lies beside the parameter follows when it gets more states, behind the old."""
        old = torch.arange(states, device="cpu").expand(self.groups, -1)
        entries = self.entries(wanted)
        runs = torch.full((self._others + entries.numel(),), -1, device="cpu")
        number = torch.arange(self.blocks, device="cpu").view(*entries.shape[:2], 1)
        runs[entries] = number.expand_as(entries)
        return Growth(self.kept(wanted, old), runs, self.dim, loudness, factors, weights)


@final
@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything of a layer that has a size by its states.

    Attributes:
        parameters: their state axes, by dotted name.
        sizes: numbers that the layer stores, by dotted name, each a multiple of N (an int), the
            length of the state axis of a parameter (its name), or what a function makes of N.
            Those that it lacks are left out, and what `nn.Linear` and depthwise `nn.Conv1d` say
            about their weights is known.
        buffers: what buffers hold that no state dict has, or that have a size by the states: N ->
            value.
        caches: plain attributes with tables that the layer computed of its sizes, by dotted name.
            They are forgotten (None), to be computed anew.
        config: numbers that a configuration around the layer stores, each a multiple of N or what a
            function makes of it: all of them, or none where it lacks one. Empty: `config_keys` of
            the adapter say what it calls N.
        kind: the class of a layer with N states, where one class does not do for all.
        unstored: what no configuration around the layer can say of N states, for the reader of an
            event; None where it can.
    """

    parameters: Mapping[str, StateAxis]
    sizes: Mapping[str, Size | str] = field(default_factory=dict)
    buffers: Mapping[str, Callable[[int], Tensor]] = field(default_factory=dict)
    caches: tuple[str, ...] = ()
    config: Mapping[str, Size] = field(default_factory=dict)
    kind: Callable[[int], type[nn.Module]] | None = None
    unstored: Callable[[int], str | None] | None = None

    def state_dim(self, module: nn.Module) -> int:
        """N of a layer.

        Raises:
            InputError: the lengths of its parameters fit no number of states, or several.
        """
        lengths = {
            name: module.get_parameter(name).shape[axis.dim]
            for name, axis in self.parameters.items()
        }
        found = {name: self.parameters[name].count(length) for name, length in lengths.items()}
        (states, *others) = dict.fromkeys(found.values())
        if others or states is None:
            said = ", ".join(f"{name} ({lengths[name]}) of {n}" for name, n in found.items())
            raise InputError(
                f"model: the parameters of {type(module).__name__} do not agree on a number of "
                f"states: by their lengths, {said}"
            )
        return states

    def parameters_per_state(self, module: nn.Module) -> int:
        """Parameters that go when every group loses one state."""
        return sum(
            axis.blocks * (p.numel() // p.shape[axis.dim])
            for name, axis in self.parameters.items()
            for p in [module.get_parameter(name)]
        )

    def attributes(self, module: nn.Module, states: int) -> dict[str, Any]:
        """What the layer says about its own sizes, as it is with so many states.

        Plain values by dotted name, tensors for buffers, None for what is computed anew, and a
        class for `__class__`.
        """
        lengths = {}
        for name, axis in self.parameters.items():
            present = module.get_parameter(name).shape
            now = axis.count(present[axis.dim])
            assert now is not None
            lengths[name] = axis.shape(present, now, states)[axis.dim]
        found: dict[str, Any] = {}
        for name, says in self.sizes.items():
            if _has(module, name):
                found[name] = lengths[says] if isinstance(says, str) else sized(says, states)
        for name, axis in self.parameters.items():
            path = name.rpartition(".")[0]
            for key in _said_by(module.get_submodule(path), axis.dim):
                found[f"{path}.{key}"] = lengths[name]
        found |= {name: None for name in self.caches if _has(module, name)}
        if self.kind is not None:
            found["__class__"] = self.kind(states)
        return found | {name: make(states) for name, make in self.buffers.items()}


def sized(says: Size, states: int) -> int | float:
    """A number that is stored, for so many states."""
    return says * states if isinstance(says, int) else says(states)


def ratio(whole: int, base: int) -> float:
    """A float r with int(base r) = round(base r) = whole, for sizes that are stored as ratios.

    whole / base itself can be rounded down, and its product with it. The next float is not below
    the exact quotient; so the exact product is not below `whole`, and no rounding of it is either.
    """
    nearest = whole / base
    return nearest if int(base * nearest) == whole else math.nextafter(nearest, math.inf)


def _said_by(holder: nn.Module, dim: int) -> tuple[str, ...]:
    """What a module of PyTorch calls the length of its weight along an axis."""
    if isinstance(holder, nn.Linear):
        return (("out_features", "in_features")[dim],)
    if isinstance(holder, nn.Conv1d):
        return ("in_channels", "out_channels", "groups")
    return ()


def _has(module: nn.Module, name: str) -> bool:
    try:
        holder, key = holder_of(module, name)
    except InputError:
        return False
    return hasattr(holder, key)
