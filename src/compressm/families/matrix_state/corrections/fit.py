"""The rows that make B and C of a cut layer, fitted to the output of the full one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from compressm.families.matrix_state.corrections.base import Correction
from compressm.families.matrix_state.layer import NewValue, SelectiveLayer
from compressm.families.matrix_state.probes import Inputs, LayerProbe, Seen
from compressm.numerics.matrix_state.fitting import Rows, fit_rows
from compressm.numerics.sampling import content_keys

Call = tuple[Tensor, Tensor | None]  # hidden states (B, L, width), mask (B, L)


@final
class Samples(LayerProbe):
    """Inputs of the layer, as they are: what fits that go over the data many times need.

    On several ranks the fit is made by the first, from its own data.
    """

    per_call, tokens = 4096, 16384

    def __init__(self, inputs: Inputs, layer: SelectiveLayer) -> None:
        super().__init__(inputs, layer)
        self.calls: list[Call] = []

    def add(self, seen: Seen) -> None:
        self.calls.append((seen.hidden, seen.mask))

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Nothing is summed."""


@final
class Fit(Correction):
    """Both rows of each kept state, from the weights on."""

    label = "weights where it can, rows of B and C"
    probe: Samples

    def watch(self, inputs: Inputs) -> Samples:
        return Samples(inputs, self.layer)

    def finish(self) -> tuple[dict[str, NewValue], float | None]:
        cut = self.cut
        name, *_ = cut.rows()
        # In an order of their own: a search amplifies what another order of a sum changes.
        calls = sorted(self.probe.calls, key=lambda call: float(content_keys(*call).sum()))
        missing = self.probe.evidence.missing
        value, error = fitted(self.layer, cut, [] if missing else calls)
        if missing:
            self.notes = (f"not fitted: in the batches of the first process, {missing}",)
        elif torch.equal(value, cut.p[name].to(value)):  # no rows were better than those given
            self.judge(error, error)
        return self.changes | {name: NewValue(value, self.changes[name].transport)}, error


def fitted(
    full: SelectiveLayer, cut: SelectiveLayer, calls: Sequence[Call]
) -> tuple[Tensor, float | None]:
    """The parameter that makes B and C, and the relative error of what the scan adds.

    A layer that no batch reached keeps its rows.
    """
    name, *own = cut.rows()
    weight = cut.p[name].to(cut.dtype)
    if not calls:
        return weight, None
    own = [at.to(weight.device) for at in own]
    covariance, count, energy = weight.new_zeros(weight.shape[1], weight.shape[1]), 0, 0.0
    misses = []
    for hidden, mask in calls:
        with torch.no_grad():
            inputs, miss, added = _problem(full, cut, hidden, mask)
        misses.append(miss)
        covariance += inputs.mT @ inputs
        count += len(inputs)
        energy += float(added.double().square().sum())
    rows, error = fit_rows(misses, [weight[at] for at in own], covariance / max(count, 1), energy)
    return weight.index_copy(0, torch.cat(own), torch.cat(rows)), error


def _problem(
    full: SelectiveLayer, cut: SelectiveLayer, hidden: Tensor, mask: Tensor | None
) -> tuple[Tensor, Callable[[Rows], Tensor], Tensor]:
    """Inputs of the rows (T, F), what they miss of the output, and what the scan adds to it."""
    s, few = full.signals(hidden, mask), cut.signals(hidden, mask)
    inputs, counts = cut.projected(hidden, few), s.mask
    target = full.mapped(full.activations(s, full.scan(s)))
    skip = full.mapped(full.activations(s, torch.zeros_like(s.x)))

    def miss(rows: Rows) -> Tensor:
        B, C = cut.shared(rows[0], rows[1], inputs, counts)
        now = replace(few, B=B, C=C)
        return (cut.mapped(cut.activations(now, cut.scan(now))) - target)[counts]

    return inputs[counts], miss, (target - skip)[counts]
