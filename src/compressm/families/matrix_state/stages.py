"""The stages of a layer with a matrix-valued state: observed, measured, drafted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from compressm.calibration import Probe, some
from compressm.edits import Edit
from compressm.families.base import Draft, Measurement, Observer, Which
from compressm.families.matrix_state.choice import Choice
from compressm.families.matrix_state.corrections import CORRECTIONS, Correction
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.method import MatrixStateMethod
from compressm.families.matrix_state.orders import ORDERS
from compressm.families.matrix_state.orders.base import unseen
from compressm.families.matrix_state.output_error import ErrorProbe
from compressm.families.matrix_state.probes import Inputs, OrderProbe
from compressm.numerics import HankelMatrix
from compressm.numerics.matrix_state.contributions import Weigh
from compressm.numerics.matrix_state.gramians import exchanged
from compressm.numerics.matrix_state.matching import term_weights
from compressm.numerics.matrix_state.spacing import spaced_indices, spaced_ranks
from compressm.spectrum import Spectrum, StateCost

_INTERACT = (
    "under the delta rule states interact: the energies rank them, and are no error of the output"
)


@final
class MatrixStateObserver(Observer):
    """Reads the layer once; watches its inputs when the method asks for them."""

    def __init__(
        self,
        inputs: Inputs,
        layer: MatrixStateLayer,
        method: MatrixStateMethod,
        cost: StateCost,
        *,
        runs: str | None = None,
    ) -> None:
        self.inputs, self.layer, self.runs = inputs, layer, runs
        self.method, self.cost = method, cost
        self.order = ORDERS[method.order](layer, method.weigh)
        self.watching: OrderProbe | None = None
        if method.needs_data:
            self.watching = OrderProbe(inputs, layer, self.order)
            self.probe: Probe | None = self.watching

    @torch.no_grad()
    def as_read(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int, steps: int
    ) -> tuple[Tensor, Tensor | None] | None:
        hidden, mask = some(*self.inputs(args, kwargs), rows, steps)
        s = self.layer.signals(hidden, mask)
        return self.layer.output(hidden, s, self.layer.scan(s)), mask

    def measure(self) -> Measurement:
        return MatrixStateMeasurement(self)


@final
class MatrixStateMeasurement(Measurement):
    """The order of the states of one layer, and what each of them adds.

    With E_r the energy of the output that the leading r states leave, the values of the spectrum
    are E_{r-1} - E_r (summed over groups), so that an energy tolerance is the share of the output's
    energy that is lost; where a later state adds more than an earlier one, both get their mean, and
    what r states leave is E_r all the same. Of an order without energies they are its scores.
    """

    def __init__(self, observer: MatrixStateObserver) -> None:
        self.observer = observer
        layer, method, watching = observer.layer, observer.method, observer.watching
        missing = None if watching is None else watching.evidence.missing
        self.ranking = unseen(layer) if missing else observer.order.rank()
        self.values = _pooled(self.ranking.values).clamp_min(0)
        left = self.ranking.values.flip(0).cumsum(0).flip(0).clamp_min(0)
        self._left = [*left.tolist(), 0.0]
        self.spectrum = Spectrum(
            values=self.values,
            state_dim=layer.state_dim,
            kind="weights" if watching is None else _KINDS[method.weigh],
            guaranteed=False,
            left=self._left,
            cost=observer.cost,
            ranks=self._possible(),
            unseen=missing,
        )

    def _possible(self) -> dict[int, float] | None:
        """The ranks that the layer can have, and what each leaves; None where it can have all."""
        layer = self.observer.layer
        if layer.possible is None and not layer.spaced:
            return None
        ranks = layer.possible or spaced_ranks(layer.state_dim)
        return {rank: self._left[rank] for rank in ranks}

    def hankel_matrix(self) -> HankelMatrix:
        """Diagonal: states do not mix. Of several groups, the first tells states apart."""
        at = self.ranking.orders[0].indices
        matrix = torch.zeros(len(at), len(at), dtype=torch.float64, device="cpu")
        matrix[at, at] = self.values
        vectors = torch.eye(len(at), dtype=torch.float64, device="cpu")[:, at]
        return HankelMatrix(matrix=matrix, values=self.values, vectors=vectors)

    def reduce(self, rank: int, *, select: Which, generator: torch.Generator) -> Draft:
        layer, N = self.observer.layer, self.observer.layer.state_dim
        picks = []
        rank = self.spectrum.at_most(rank)
        for order in self.ranking.orders:
            if layer.spaced:
                picks.append(spaced_indices(N, rank))
            elif select == "random" or self.ranking.shuffled:
                picks.append(torch.randperm(N, generator=generator, device="cpu")[:rank])
            else:
                picks.append(order.indices[:rank] if select == "largest" else order.indices[-rank:])
        if self.ranking.columns is not None and select == "largest" and not layer.spaced:
            pairs = zip(self.ranking.columns, picks, strict=True)
            picks = [exchanged(gram, kept) for gram, kept in pairs]
        choice = Choice(indices=torch.stack(picks).sort(dim=1).values)
        if self.ranking.bases is not None:
            at = choice.indices[:, None, :].expand(-1, N, -1)
            V, W = (basis.gather(2, at) for basis in self.ranking.bases)
            choice = replace(choice, bases=(V, W))
        evidence = self.ranking.evidence
        if evidence is not None:
            choice = replace(
                choice,
                squares=evidence.squares,
                covariance=evidence.covariance,
            )
            if self.observer.method.correct is not None and layer.weighable:
                moments = evidence.moment.view(layer.groups, -1, N, N).sum(1)
                pairs = zip(moments, choice.indices, strict=True)
                weights = torch.stack([term_weights(M, kept) for M, kept in pairs])
                choice = replace(choice, weights=weights)
        return MatrixStateDraft(self.observer, choice)


@final
class MatrixStateDraft(Draft):
    """A choice of states for one layer, and the correction that follows it, if any."""

    def __init__(self, observer: MatrixStateObserver, choice: Choice) -> None:
        self.observer, self.choice = observer, choice
        self._changes = observer.layer.changes(choice)
        self._correction: Correction | None = None
        if observer.method.correct is not None:
            kind = CORRECTIONS[observer.method.correct]
            self._correction = kind(observer.inputs, observer.layer, choice, self._changes)
            self.probe: Probe | None = self._correction.probe
        self._watching: ErrorProbe | None = None
        if self.probe is None:
            cut = observer.layer.reduced(self._changes, self.rank)
            self._watching = ErrorProbe(observer.inputs, observer.layer, cut)
            self.probe = self._watching

    @property
    def rank(self) -> int:
        return self.choice.indices.shape[1]

    def finish(self) -> None:
        if self._correction is not None:
            self._changes, self.data_error = self._correction.finish()
            self.notes = self._correction.notes
        if self._watching is not None:
            self.data_error = self._watching.error
        if not self.observer.layer.recurrence.additive and self.observer.watching is not None:
            self.notes += (_INTERACT,)
        unstored = self.observer.layer.layout.unstored
        if unstored is not None and (note := unstored(self.rank)) is not None:
            self.notes += (note,)

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
