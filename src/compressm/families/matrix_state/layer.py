"""A layer with a matrix-valued state as it was read.

Shapes as in `numerics.matrix_state.signals`; H outputs, F inputs of the rows that make keys and
queries.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.edits import Edit, Project, Selection, StateMap
from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.matrix_state.choice import Choice, NewValue, Part
from compressm.families.matrix_state.recurrences import Recurrence
from compressm.numerics.matrix_state.signals import Signals

# Why some layers cannot grow.
NORM_OVER_STATES = (
    "keys and queries are normalised over all states, so that a new one changes what the others "
    "write or read"
)


class MatrixStateLayer(ABC):
    """A layer as it was when it was read: its tensors, and what they do.

    Args:
        module: the live layer; its parameters are only looked at.
        layout: where its states are.

    Attributes:
        recurrence: what its signals drive.
        made_by: parameters whose rows make keys and queries (by their roles in the layout), that a
            fit may change; all are multiplied with the same inputs.
        weighed: the parameter whose entries for reading, with its bias, take weights of
            contributions; None: a
            nonlinearity stands between every such parameter and the queries.
        mixable: whether these entries can be replaced by mixes of all old ones.
        out_map: what the layer calls its map at the end.
        p: its parameters by name.
        dtype: that it is computed in; single precision for half-precision weights.
        groups: G.
        sharing: groups of signals that keep the same states. Signals have `sharing` times G groups,
            those of a choice one behind the other.
        entries: entries of a key, and of a query, that make one state; in signals all states' first
            ones lie before their second ones.
        blocks: K, blocks of channels whose contributions are kept apart (a multiple of
            the groups of signals).
        norms: how many norms divide what comes out of the recurrence, each over as many of its
            channels, which follow each other; 1: there is none, or one over all of them.
        before_norms: what these see, (B, L, …) channel by channel, of the signals and the output y
            (B, L, G, J, V) of the recurrence; None: y.
        state_dim: N.
        spaced: whether every m-th state has to stay, because the layer computes something of each
            (a frequency of rotation) from its place among all.
        possible: numbers of states that it can have, N among them; None: all, or as `spaced` says.
        no_growth: why a new state would change what the others do, so that the layer cannot grow;
            None: it changes nothing where what makes its query is zero (with a delta rule, what
            makes its key).
        step: numbers of states that it can grow to are multiples of this.
        unit: whether queries get length one.
        query_rows: where the layer divides queries by N^(1/2), parameters with rows that make them,
            linearly, so that these make up for another N; empty: it does not.
        decay_entries: parameters whose entries are decays themselves, one for each state.
    """

    recurrence: ClassVar[Recurrence]
    made_by: tuple[str, ...]
    weighed: str | None = None
    mixable: bool = False
    out_map: ClassVar[str] = "out_proj"
    groups: int = 1
    sharing: int = 1
    entries: int = 1
    blocks: int = 1
    norms: int = 1
    before_norms: Callable[[Signals, Tensor], Tensor] | None = None
    spaced: bool = False
    possible: tuple[int, ...] | None = None
    no_growth: str | None = "their adapter does not say that new states leave others as they are"
    step: int = 1
    unit: bool = False
    query_rows: ClassVar[tuple[str, ...]] = ()
    decay_entries: ClassVar[tuple[str, ...]] = ()

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        self.module, self.layout = module, layout
        self.state_dim = layout.state_dim(module)
        self.p: dict[str, Tensor] = {name: p.detach() for name, p in module.named_parameters()}
        self.dtype = torch.float32
        for p in self.p.values():
            self.dtype = torch.promote_types(self.dtype, p.dtype)

    @abstractmethod
    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        """What drives the recurrence for the inputs (B, L, width) of a call; mask (B, L)."""

    @abstractmethod
    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        """(B, L, F) what the rows that make keys and queries are multiplied with."""

    @abstractmethod
    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keys and queries, (B, L, G, N), of other rows (G N, F), in the order of `parts`."""

    @abstractmethod
    def activations(self, s: Signals, y: Tensor) -> Tensor:
        """(B, L, G J V) what the output map sees for the output y (B, L, G, J, V)."""

    @abstractmethod
    def beside(self, hidden: Tensor) -> Tensor | None:
        """(B, L, H) what the layer puts out beside all that, if it does."""

    @property
    @abstractmethod
    def out_weight(self) -> Tensor:
        """W (H, G J V), the linear map at the end with gains that stand before it."""

    @abstractmethod
    def changes(self, choice: Choice) -> dict[str, NewValue]:
        """Parameters that are different when only the chosen states stay."""

    @property
    def weighable(self) -> bool:
        """Whether contributions can get weights."""
        return self.weighed is not None

    @property
    @final
    def balanceable(self) -> bool:
        """Whether any directions can stay: keys and queries are linear in rows of parameters that
        hold nothing else, and every change of basis commutes with the recurrence."""
        axes = self.layout.parameters
        plain = (StateAxis(0, roles=a.roles, groups=self.groups) == a for a in axes.values())
        alone = set(axes) == set(self.made_by) and self.entries == self.sharing == 1
        linear = self.weighed is not None and not self.spaced
        return all(plain) and alone and linear and self.recurrence.any_basis

    @final
    def counted(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs (B, L, width) in the dtype of computation, zero where a step does not count, and
        which ones do (B, L)."""
        counts = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask > 0
        return hidden.to(self.dtype) * counts[..., None].to(self.dtype), counts

    @final
    def parts(self) -> list[Part]:
        """Rows that make keys and queries: of each parameter, keys first."""
        roles: tuple[Role, ...] = ("write", "read")
        found = [
            Part(name, role, self.layout.parameters[name].rows(role, self.state_dim))
            for name in self.made_by
            for role in roles
        ]
        return [part for part in found if len(part.at)]

    @final
    def scan(self, s: Signals) -> Tensor:
        """y (B, L, G, J, V), fast and differentiable."""
        return self.recurrence.scan(s)

    @final
    def mapped(self, activations: Tensor) -> Tensor:
        """(B, L, H) what the output map makes of them, without its bias."""
        # Columns in front belong to something else that shares the map.
        own = activations.shape[-1]
        weight = self.p[f"{self.out_map}.weight"]
        return functional.linear(activations, weight[:, -own:].to(self.dtype))

    @final
    def output(self, hidden: Tensor, s: Signals, y: Tensor) -> Tensor:
        """(B, L, H) what the layer puts out for the output y of the recurrence."""
        out, bias, beside = (
            self.mapped(self.activations(s, y)),
            self.parameter(f"{self.out_map}.bias"),
            self.beside(hidden),
        )
        out = out if bias is None else out + bias
        return out if beside is None else out + beside

    @final
    def parameter(self, name: str) -> Tensor | None:
        """A parameter in the dtype of computation; None: the layer has no such one."""
        value = self.p.get(name)
        return None if value is None else value.to(self.dtype)

    @final
    def magnitudes(self) -> Tensor:
        """(G, N) norms of all that makes keys and queries, multiplied."""
        sizes: dict[str, Tensor] = {}
        for name, axis in self.layout.parameters.items():
            if name.endswith("bias"):
                continue
            value = self.p[name].movedim(axis.dim, 0)
            value = value.reshape(len(value), -1)
            for role in set(axis.roles) & {"write", "read"}:
                rows = value[axis.rows(role, self.state_dim).to(value.device)]
                rows = rows.view(-1, self.groups * self.state_dim, rows.shape[1])
                size = torch.linalg.vector_norm(rows, dim=(0, 2))
                sizes[role] = sizes[role] * size if role in sizes else size
        both: Tensor = sizes["write"] * sizes["read"]
        return both.view(self.groups, -1)

    @final
    def selected(self, choice: Choice) -> dict[str, NewValue]:
        """The chosen states of every parameter, with their weights.

        A contribution that is w times as large passes w times the gradient to what is inside it:
        decays and keys. What it got its weight from sees the gradient that it saw.
        """
        w = None if choice.weights is None else choice.weights.cpu().double()
        if choice.bases is not None:
            return self._mixed(*choice.bases)
        changes, r = {}, choice.indices.shape[1]
        taking = (self.weighed, (self.weighed or "").replace("weight", "bias"))
        for name, axis in self.layout.parameters.items():
            rows = axis.kept(self.state_dim, choice.indices)
            value = self.p[name].cpu().index_select(axis.dim, rows)
            factors = weighed = None
            if w is not None:
                weighed = value.new_ones(len(rows), dtype=torch.float64)
                factors = torch.ones_like(weighed)
                for role, at in zip(axis.roles, axis.entries(r).flatten(1), strict=True):
                    takes = name in taking and role == "read"
                    (weighed if takes else factors)[at] = w.flatten()
                shape = [-1 if i == axis.dim else 1 for i in range(value.ndim)]
                value = value.double() * weighed.view(shape)
                untouched = name in taking and set(axis.roles) == {"read"}
                factors = None if untouched else factors
            changes[name] = NewValue(value, Selection(rows, axis.dim, factors, weighed))
        return changes

    def _mixed(self, V: Tensor, W: Tensor) -> dict[str, NewValue]:
        """Rows for W'k and V'q; what they were is about V and W times these."""
        changes, turns = {}, {"write": (W, V), "read": (V, W)}
        for name, axis in self.layout.parameters.items():
            old = self.p[name].cpu().double()
            pairs = [turns[role] for role in axis.roles]
            to, back = (_in_blocks([m for pair in pairs for m in pair[i]]) for i in (0, 1))
            changes[name] = NewValue(to.mT @ old, Project(back, 0, made=StateMap(to, 0)))
        return changes

    @final
    def reduced(self, changes: Mapping[str, NewValue], state_dim: int) -> MatrixStateLayer:
        """This layer with the changes made, to be computed with."""
        other = self.with_values({n: change.value.to(self.p[n]) for n, change in changes.items()})
        other.state_dim = state_dim
        return other

    @final
    def with_values(self, values: Mapping[str, Tensor]) -> MatrixStateLayer:
        """This layer with other values of some parameters, which gradients can flow to."""
        other = copy.copy(self)
        other.p = self.p | dict(values)
        return other

    @final
    def edits(self, changes: Mapping[str, NewValue]) -> Sequence[Edit]:
        """The changes as edits of the live layer."""
        return [
            Edit(module=self.module, names=(name,), values=(c.value,), transport=c.transport)
            for name, c in changes.items()
        ]


def _in_blocks(matrices: Sequence[Tensor]) -> Tensor:
    """Along the diagonal of one matrix."""
    made: Tensor = torch.block_diag(*matrices)  # type: ignore[no-untyped-call]
    return made
