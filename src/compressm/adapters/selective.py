"""Everything that selective layer families (Mamba and its kin) share: methods, measuring, choosing.

Their states can be selected, not mixed: A[d,n] differs between channels, or a nonlinearity stands
behind the projections to B and C. A family adds how its layer is read (`SelectiveLayer`) and what
a choice of states changes in it. Shapes as in `numerics.selective`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from compressm.adapters.base import Adapter, Draft, Measurement, Observer, Select
from compressm.calibration import Given, Probe
from compressm.edits import Edit
from compressm.errors import InputError
from compressm.numerics import HankelMatrix
from compressm.numerics.contributions import ContributionMoments, Weigh
from compressm.numerics.matching import TermOrder, greedy_terms, ranked_terms, term_weights
from compressm.numerics.selective import SelectiveSignals
from compressm.spectrum import Spectrum


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the states of a selective layer are ranked, and what makes up for those that go.

    Attributes:
        order: "greedy": one by one, each time the state whose contribution explains most of the
            output together with those kept; "additive": the same without weights; "diagonal":
            energy of each state's own contribution, as forward-statistics pruning has it;
            "magnitude": norms of the rows that make B and C; "random".
        correct: "weights": each kept state's contribution gets its least-squares weight.
        weigh: where contributions are compared, see `numerics.contributions`.
    """

    order: Literal["greedy", "additive", "diagonal", "magnitude", "random"] = "greedy"
    correct: Literal["none", "weights"] = "none"
    weigh: Weigh = "output"

    @property
    def needs_data(self) -> bool:
        """Whether real activations are needed."""
        return self.order not in ("magnitude", "random") or self.correct != "none"


METHODS: dict[str, Method] = {
    "greedy-weights": Method(correct="weights"),
    "greedy-weights-gradient": Method(correct="weights", weigh="gradient"),
    "greedy-weights-scan": Method(correct="weights", weigh="scan"),
    "greedy": Method(order="additive"),
    "diagonal": Method(order="diagonal", weigh="scan"),
    "magnitude": Method(order="magnitude"),
    "random": Method(order="random"),
}
# Tokens that a layer is run over for a measurement: of each call, and in all; and the share of
# their time steps that the moments take in. States are many, so few tokens determine them.
_TOKENS_PER_CALL, _TOKENS, _RECORDED = 1024, 8192, 0.25


class SelectiveLayer(ABC):
    """A layer as it was when it was read: its tensors, and what they do.

    Attributes:
        groups: G.
        blocks: K, blocks of channels whose contributions are kept apart (a multiple of G).
        state_dim: N.
    """

    groups: int = 1
    blocks: int = 1
    state_dim: int

    @abstractmethod
    def signals(self, hidden: Tensor, mask: Tensor | None) -> SelectiveSignals:
        """What drives the scan for the inputs (B, L, width) of a call; mask (B, L) or None."""

    @property
    @abstractmethod
    def out_weight(self) -> Tensor:
        """W (H, G E), the linear map behind the gate."""

    @abstractmethod
    def magnitudes(self) -> Tensor:
        """(G, N) how large the weights are that make B and C, multiplied."""

    @abstractmethod
    def edits(self, choice: Choice) -> Sequence[Edit]:
        """The changes that leave the layer with the chosen states."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The states that stay.

    Attributes:
        indices: (G, r) int64, ascending in each group.
        weights: (G, r) by which their contributions grow, or None where they stay as they are.
        squares: (2, G, N) mean squares of B_t and C_t where they were measured.
    """

    indices: Tensor
    weights: Tensor | None = None
    squares: Tensor | None = None


class SelectiveAdapter(Adapter):
    """Base of the selective families."""

    methods: Mapping[str, Method] = METHODS
    default: Mapping[Given, str] = {
        "nothing": "magnitude",
        "data": "greedy-weights",
        "loss": "greedy-weights",
    }

    @abstractmethod
    def read(self, module: nn.Module) -> SelectiveLayer:
        """The layer as it is now."""

    def inputs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """(hidden states (B, L, width), mask (B, L) or None) of one call of the layer."""
        given = dict(zip(("hidden_states",), args, strict=False)) | dict(kwargs)
        mask = given.get("attention_mask")
        hidden = given.get("hidden_states", given.get("u"))
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            raise InputError(f"data: {self.family} layers are called with hidden states (B, L, H)")
        # A mask of more dimensions belongs to attention layers beside this one.
        return hidden, mask if isinstance(mask, Tensor) and mask.shape == hidden.shape[:2] else None

    @final
    def observe(self, module: nn.Module, method: str, *, given: Given) -> Observer:
        name = self.default[given] if method == "auto" else method
        if name not in self.methods:
            raise InputError(
                f"method: {self.family} layers know {', '.join(self.methods)} and auto, "
                f"got {method!r}"
            )
        if self.methods[name].needs_data and given == "nothing":
            raise InputError(
                f"data: method {name!r} looks at real activations; pass data=<a few batches>"
            )
        if self.methods[name].weigh == "gradient" and given != "loss":
            raise InputError(
                f"loss: method {name!r} weights states by the gradient of the loss; "
                "pass loss=lambda model, batch: <scalar>"
            )
        return SelectiveObserver(self, module, self.methods[name])


class Contributions:
    """A probe that sums up what each state contributes on a layer's real inputs."""

    def __init__(self, adapter: SelectiveAdapter, module: nn.Module, method: Method) -> None:
        self.module, self._adapter = module, adapter
        self.needs_gradient = method.weigh == "gradient"
        self._layer = adapter.read(module)
        self.moments = ContributionMoments(self._layer.blocks, self._layer.state_dim, method.weigh)
        self._left = _TOKENS
        self._generator = torch.Generator().manual_seed(0)

    def saw(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """Add one call of the layer, or a part of it."""
        hidden, mask = self._adapter.inputs(args, kwargs)
        batch, length, _ = hidden.shape
        if self._left <= 0:
            return
        rows = max(1, min(batch, _TOKENS_PER_CALL // length))
        self._left -= rows * length
        chosen = torch.randperm(batch, generator=self._generator)[:rows].to(hidden.device)
        steps = torch.zeros(length, dtype=torch.bool)
        recorded = max(1, round(_RECORDED * length), min(length, 64))
        steps[torch.randperm(length, generator=self._generator)[:recorded]] = True
        with torch.no_grad():
            s = self._layer.signals(hidden.detach()[chosen], None if mask is None else mask[chosen])
            slope = None
            if gradient is not None:
                back = gradient[chosen].to(s.gate.dtype) @ self._layer.out_weight
                slope = back.view(s.gate.shape) * s.gate
            self.moments.update(s, steps, out_weight=self._layer.out_weight, gradient=slope)

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""
        self.moments.pool(total)


@final
class SelectiveObserver(Observer):
    """Reads the layer once; watches its inputs when the method asks for them."""

    def __init__(self, adapter: SelectiveAdapter, module: nn.Module, method: Method) -> None:
        self.adapter, self.module, self.method = adapter, module, method
        self.layer = adapter.read(module)
        self.contributions: Contributions | None = None
        if method.needs_data:
            self.contributions = Contributions(adapter, module, method)
            self.probe: Probe | None = self.contributions

    def measure(self) -> Measurement:
        return SelectiveMeasurement(self)


@final
class SelectiveMeasurement(Measurement):
    """The order of the states of one layer, and what each of them adds.

    With E_r the energy of the output that the leading r states leave, the values of the spectrum
    are E_{r-1} - E_r (summed over groups), so that an energy tolerance is the share of the output's
    energy that is lost; where a later state adds more than an earlier one, both get their mean.
    Without data they are the scores of the method.
    """

    def __init__(self, observer: SelectiveObserver) -> None:
        self.observer = observer
        layer, method = observer.layer, observer.method
        seen = observer.contributions
        self.moments: Tensor | None = None
        self.squares: Tensor | None = None
        if seen is not None:
            moment = seen.moments.moment
            self.moments = moment.view(layer.groups, -1, *moment.shape[1:]).sum(1)
            self.squares = seen.moments.squares
        self.orders = [self._order(group) for group in range(layer.groups)]
        if self.moments is None:
            values = torch.stack([scores.sort(descending=True).values for scores in self._scores()])
            per_state = values.sum(0)
        else:
            left = torch.stack([order.residual for order in self.orders]).sum(0)
            total = sum(order.total for order in self.orders)
            # With all states there is no error, whatever rounding says.
            left[-1] = 0.0
            per_state = _pooled(-torch.diff(left, prepend=left.new_tensor([total])))
        self.values = per_state.clamp_min(0)
        self.spectrum = Spectrum(
            values=self.values,
            state_dim=layer.state_dim,
            kind=_KINDS[method.weigh] if self.moments is not None else "weights",
            guaranteed=False,
            cost=observer.adapter.cost(observer.module),
        )

    def _scores(self) -> Tensor:
        layer, method = self.observer.layer, self.observer.method
        if method.order == "random":
            return torch.ones(layer.groups, layer.state_dim, dtype=torch.float64)
        return layer.magnitudes().detach().cpu().double()

    def _order(self, group: int) -> TermOrder:
        layer, order = self.observer.layer, self.observer.method.order
        N = layer.state_dim
        if self.moments is None:
            M = torch.eye(N, dtype=torch.float64)
            return ranked_terms(M, self._scores()[group], N)
        M = self.moments[group]
        if order == "greedy":
            return greedy_terms(M, N)
        if order == "additive":
            return greedy_terms(M, N, weighted=False)
        return ranked_terms(M, M.diagonal(), N)

    def hankel_matrix(self) -> HankelMatrix:
        """Diagonal: states do not mix. Of several groups, the first tells states apart."""
        at = self.orders[0].indices
        matrix = torch.zeros(len(at), len(at), dtype=torch.float64)
        matrix[at, at] = self.values
        vectors = torch.eye(len(at), dtype=torch.float64)[:, at]
        return HankelMatrix(matrix=matrix, values=self.values, vectors=vectors)

    def reduce(self, rank: int, *, select: Select, generator: torch.Generator) -> Draft:
        method, N = self.observer.method, self.observer.layer.state_dim
        if method.order == "random":
            select = "random"
        picks = []
        for order in self.orders:
            if select == "random":
                picks.append(torch.randperm(N, generator=generator)[:rank])
            else:
                picks.append(order.indices[:rank] if select == "largest" else order.indices[-rank:])
        indices = torch.stack(picks).sort(dim=1).values
        choice = Choice(indices=indices, squares=self.squares)
        if method.correct != "none" and self.moments is not None:
            pairs = zip(self.moments, indices, strict=True)
            weights = torch.stack([term_weights(M, kept) for M, kept in pairs])
            choice = replace(choice, weights=weights)
        return SelectiveDraft(self.observer, choice)


@final
class SelectiveDraft(Draft):
    """A choice of states for one layer."""

    def __init__(self, observer: SelectiveObserver, choice: Choice) -> None:
        self.observer, self.choice = observer, choice

    @property
    def rank(self) -> int:
        return self.choice.indices.shape[1]

    def finish(self) -> None:
        """Nothing is asked of a second pass."""

    def edits(self) -> Sequence[Edit]:
        return self.observer.layer.edits(self.choice)


_KINDS: dict[Weigh, str] = {
    "scan": "empirical",
    "gate": "empirical",
    "output": "empirical",
    "gradient": "gradient",
}


def _pooled(gains: Tensor) -> Tensor:
    """The closest non-increasing sequence: neighbours out of order get their mean."""
    blocks: list[tuple[float, int]] = []
    for gain in gains.tolist():
        size = 1
        while blocks and blocks[-1][0] < gain:
            before, count = blocks.pop()
            gain = (before * count + gain * size) / (count + size)
            size += count
        blocks.append((gain, size))
    return torch.cat([torch.full((size,), mean, dtype=torch.float64) for mean, size in blocks])
