"""A selective layer as it was read, a choice among its states, and how both were arrived at."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.edits import Edit, Selection, Transport
from compressm.numerics.matrix_state.contributions import Weigh
from compressm.numerics.matrix_state.selective import SelectiveSignals


@dataclass(frozen=True, kw_only=True)
class MatrixStateMethod:
    """How the states of a selective layer are ranked, and what makes up for those that go.

    Attributes:
        order: "greedy": one by one, each time the state whose contribution explains most of the
            output together with those kept; "additive": the same, with contributions at the weight
            that they have; "diagonal": energy of each state's own contribution, as
            forward-statistics pruning has it; "hankel": Hankel singular value of each mode under
            averaged dynamics; "magnitude": norms of the rows that make B and C; "random".
        correct: "none"; "weights": each kept contribution gets its least-squares weight, where the
            layer can store it; or the name of one of the `corrections`, which come on top of that.
        weigh: where contributions are compared, see `numerics.contributions`.
    """

    order: Literal["greedy", "additive", "diagonal", "hankel", "magnitude", "random"] = "greedy"
    correct: str = "none"
    weigh: Weigh = "output"

    @property
    def needs_data(self) -> bool:
        """Whether real activations are needed."""
        return self.order not in ("magnitude", "random") or self.correct != "none"


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The states that stay.

    Attributes:
        indices: (G, r) int64, ascending in each group.
        weights: (G, r) by which their contributions grow, or None where they stay as they are.
        mix: (r, N), rows of C as mixes of the old ones, where these were refitted.
        squares: (2, G, N) mean squares of B_t and C_t where they were measured.
        covariance: (G, N, N) second moments of C_t.
        moments: (K, N, N) Gram matrices of the contributions where they were measured.
    """

    indices: Tensor
    weights: Tensor | None = None
    mix: Tensor | None = None
    squares: Tensor | None = None
    covariance: Tensor | None = None
    moments: Tensor | None = None


@dataclass(frozen=True, eq=False)
class NewValue:
    """The new value of one parameter, and how its optimizer state follows."""

    value: Tensor
    transport: Transport


class SelectiveLayer(ABC):
    """A layer as it was when it was read: its tensors, and what they do.

    Args:
        module: the live layer; its parameters are only looked at.

    Attributes:
        p: its parameters by name.
        groups: G.
        blocks: K, blocks of channels whose contributions are kept apart (a multiple of G).
        state_dim: N.
        weighable: whether contributions can get weights.
        mixable: whether rows of C can be mixed.
    """

    groups: int = 1
    blocks: int = 1
    weighable: bool = True
    mixable: bool = False
    state_dim: int

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.p: dict[str, Tensor] = {name: p.detach() for name, p in module.named_parameters()}
        # Half-precision weights are computed with in single precision.
        self.dtype = torch.promote_types(self.p["A_log"].dtype, torch.float32)

    @abstractmethod
    def signals(self, hidden: Tensor, mask: Tensor | None) -> SelectiveSignals:
        """What drives the scan for the inputs (B, L, width) of a call; mask (B, L) or None."""

    @abstractmethod
    def rows(self) -> tuple[str, Tensor, Tensor]:
        """The parameter that makes B and C, and which of its rows make each, (G N,) int64."""

    @abstractmethod
    def projected(self, hidden: Tensor, s: SelectiveSignals) -> Tensor:
        """(B, L, F) what those rows are multiplied with."""

    @abstractmethod
    def shared(self, B: Tensor, C: Tensor, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """B_t and C_t, (B, L, G, N), of rows (G N, F) and their inputs."""

    @abstractmethod
    def scan(self, s: SelectiveSignals) -> Tensor:
        """y (B, L, G, E), by the operators for training: fast and differentiable."""

    @abstractmethod
    def activations(self, s: SelectiveSignals, y: Tensor) -> Tensor:
        """(B, L, G E) what the output map sees for the output y (B, L, G, E) of the scan."""

    @final
    def mapped(self, activations: Tensor) -> Tensor:
        """(B, L, H) what the output map makes of them, without its bias."""
        # Columns in front belong to something else that shares the map.
        own = activations.shape[-1]
        return functional.linear(activations, self.p["out_proj.weight"][:, -own:].to(self.dtype))

    def output(self, hidden: Tensor, s: SelectiveSignals, y: Tensor) -> Tensor:
        """(B, L, H) what the layer puts out for the output y (B, L, G, E) of the scan."""
        out, bias = self.mapped(self.activations(s, y)), self.p.get("out_proj.bias")
        return out if bias is None else out + bias.to(self.dtype)

    @abstractmethod
    def decay_rates(self) -> Tensor:
        """A (G, E, N) or (G, E, 1), negative."""

    @abstractmethod
    def magnitudes(self) -> Tensor:
        """(G, N) how large the weights are that make B and C, multiplied."""

    @abstractmethod
    def changes(self, choice: Choice) -> dict[str, NewValue]:
        """Parameters that are different when only the chosen states stay."""

    @abstractmethod
    def resized(self, state_dim: int) -> None:
        """Take note that the tensors in `p` have so many states now."""

    @property
    def out_weight(self) -> Tensor:
        """W (H, G E), the linear map at the end."""
        return self.p["out_proj.weight"].to(self.dtype)

    @final
    def reduced(self, changes: Mapping[str, NewValue], state_dim: int) -> SelectiveLayer:
        """This layer with the changes made, to be computed with."""
        other = copy.copy(self)
        other.p = dict(self.p)
        for name, change in changes.items():
            other.p[name] = change.value.to(self.p[name])
        other.resized(state_dim)
        return other

    @final
    def edits(self, changes: Mapping[str, NewValue]) -> Sequence[Edit]:
        """The changes as edits of the live layer."""
        return [
            Edit(module=self.module, names=(name,), values=(c.value,), transport=c.transport)
            for name, c in changes.items()
        ]


def picked(value: Tensor, rows: Tensor, dim: int, factors: Tensor | None = None) -> NewValue:
    """Existing entries of a parameter, as they are; gradients grow by `factors`."""
    return NewValue(value.cpu().index_select(dim, rows), Selection(rows, dim, factors))


def scaled(value: Tensor, factor: float) -> NewValue:
    """A whole parameter times a constant, where its gradient shrinks by the same."""
    rows = torch.arange(len(value), device="cpu")
    inverse = torch.full((len(value),), 1 / factor, dtype=torch.float64, device="cpu")
    return NewValue(value.cpu().double() * factor, Selection(rows, 0, inverse))
