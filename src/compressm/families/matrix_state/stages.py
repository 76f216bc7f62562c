"""The stages of a selective layer: observed, measured, drafted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from compressm.calibration import Probe, some
from compressm.edits import Edit
from compressm.families.base import Draft, Measurement, Observer, Which
from compressm.families.matrix_state.corrections import CORRECTIONS, Correction
from compressm.families.matrix_state.layer import Choice, MatrixStateMethod, SelectiveLayer
from compressm.families.matrix_state.probes import Contributions, Inputs
from compressm.numerics import HankelMatrix
from compressm.numerics.matrix_state.contributions import Weigh
from compressm.numerics.matrix_state.matching import (
    TermOrder,
    greedy_terms,
    ranked_terms,
    residual_energy,
    term_weights,
)
from compressm.spectrum import Spectrum, StateCost


@final
class SelectiveObserver(Observer):
    """Reads the layer once; watches its inputs when the method asks for them."""

    def __init__(
        self,
        inputs: Inputs,
        layer: SelectiveLayer,
        method: MatrixStateMethod,
        cost: StateCost,
        *,
        runs: str | None = None,
    ) -> None:
        self.inputs, self.layer, self.runs = inputs, layer, runs
        self.method, self.cost = method, cost
        self.contributions: Contributions | None = None
        if method.needs_data:
            self.contributions = Contributions(inputs, layer, method)
            self.probe: Probe | None = self.contributions

    @torch.no_grad()
    def as_read(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int, steps: int
    ) -> tuple[Tensor, Tensor | None] | None:
        hidden, mask = some(*self.inputs(args, kwargs), rows, steps)
        s = self.layer.signals(hidden, mask)
        return self.layer.output(hidden, s, self.layer.scan(s)), mask

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
        self.blocks: Tensor | None = None
        self.squares: Tensor | None = None
        self.covariance: Tensor | None = None
        self.unseen = None if seen is None else seen.evidence.missing
        if seen is not None and self.unseen is None:
            self.blocks = seen.moments.moment
            by_group = self.blocks.view(layer.groups, -1, *self.blocks.shape[1:])
            self.moments = by_group.sum(1)
            self.covariance = seen.moments.covariance
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
            kind=_KINDS[method.weigh] if seen is not None else "weights",
            guaranteed=False,
            cost=observer.cost,
            unseen=self.unseen,
        )

    def _scores(self) -> Tensor:
        layer, method = self.observer.layer, self.observer.method
        if self.unseen:
            return torch.zeros(layer.groups, layer.state_dim, dtype=torch.float64, device="cpu")
        if method.order == "random":
            return torch.ones(layer.groups, layer.state_dim, dtype=torch.float64, device="cpu")
        seen = self.observer.contributions
        if seen is not None and seen.averages is not None:
            return seen.averages.scores(layer.decay_rates())
        return layer.magnitudes().detach().cpu().double()

    def _order(self, group: int) -> TermOrder:
        layer, order = self.observer.layer, self.observer.method.order
        N = layer.state_dim
        if self.moments is None:
            M = torch.eye(N, dtype=torch.float64, device="cpu")
            return ranked_terms(M, self._scores()[group], N)
        M = self.moments[group]
        if order == "greedy":
            return greedy_terms(M, N, weighted=layer.weighable)
        if order == "additive":
            return greedy_terms(M, N, weighted=False)
        if order == "diagonal":
            return ranked_terms(M, M.diagonal(), N)
        return ranked_terms(M, self._scores()[group], N)

    def hankel_matrix(self) -> HankelMatrix:
        """Diagonal: states do not mix. Of several groups, the first tells states apart."""
        at = self.orders[0].indices
        matrix = torch.zeros(len(at), len(at), dtype=torch.float64, device="cpu")
        matrix[at, at] = self.values
        vectors = torch.eye(len(at), dtype=torch.float64, device="cpu")[:, at]
        return HankelMatrix(matrix=matrix, values=self.values, vectors=vectors)

    def reduce(self, rank: int, *, select: Which, generator: torch.Generator) -> Draft:
        method, N = self.observer.method, self.observer.layer.state_dim
        if method.order == "random":
            select = "random"
        picks = []
        for order in self.orders:
            if select == "random":
                picks.append(torch.randperm(N, generator=generator, device="cpu")[:rank])
            else:
                picks.append(order.indices[:rank] if select == "largest" else order.indices[-rank:])
        indices = torch.stack(picks).sort(dim=1).values
        choice = Choice(
            indices=indices,
            squares=self.squares,
            covariance=self.covariance,
            moments=self.blocks,
        )
        if method.correct != "none" and self.moments is not None and self.observer.layer.weighable:
            pairs = zip(self.moments, indices, strict=True)
            weights = torch.stack([term_weights(M, kept) for M, kept in pairs])
            choice = replace(choice, weights=weights)
        return SelectiveDraft(self.observer, choice)


@final
class SelectiveDraft(Draft):
    """A choice of states for one layer, and the correction that follows it, if any."""

    def __init__(self, observer: SelectiveObserver, choice: Choice) -> None:
        self.observer, self.choice = observer, choice
        self._changes = observer.layer.changes(choice)
        self._correction: Correction | None = None
        if observer.method.correct not in ("none", "weights"):
            kind = CORRECTIONS[observer.method.correct]
            self._correction = kind(observer.inputs, observer.layer, choice, self._changes)
            self.probe: Probe | None = self._correction.probe

    @property
    def rank(self) -> int:
        return self.choice.indices.shape[1]

    def finish(self) -> None:
        moments = self.choice.moments
        if self._correction is not None:
            self._changes, self.data_error = self._correction.finish()
            self.notes = self._correction.notes
        elif moments is not None and self.observer.method.weigh != "gradient":
            self.data_error = self._own_error(moments)

    def _own_error(self, moments: Tensor) -> float | None:
        """Relative error of the contributions where they are compared."""
        choice, groups = self.choice, self.observer.layer.groups
        by_group = moments.view(groups, -1, *moments.shape[1:]).sum(1)
        ones = torch.ones_like(choice.indices, dtype=torch.float64)
        weights = ones if choice.weights is None else choice.weights
        triples = zip(by_group, choice.indices, weights, strict=True)
        left, whole = sum(residual_energy(*t) for t in triples), float(moments.sum())
        return (left / whole) ** 0.5 if whole > 0 else None

    def edits(self) -> Sequence[Edit]:
        return self.observer.layer.edits(self._changes)


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
    means = [mean for mean, size in blocks for _ in range(size)]
    return torch.tensor(means, dtype=torch.float64, device="cpu")
