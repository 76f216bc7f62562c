"""The rows that make keys and queries of a cut layer, fitted to the output of the full one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.families.matrix_state.corrections.base import Correction, register_correction
from compressm.families.matrix_state.layer import MatrixStateLayer, NewValue
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

    def __init__(self, inputs: Inputs, layer: MatrixStateLayer) -> None:
        super().__init__(inputs, layer)
        self.calls: list[Call] = []

    def add(self, seen: Seen) -> None:
        self.calls.append((seen.hidden, seen.mask))

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Nothing is summed."""


@final
@register_correction("fit")
class Fit(Correction):
    """Both rows of each kept state, from the weights on."""

    label: ClassVar = "weights where it can, rows of keys and queries"
    probe: Samples

    def watch(self, inputs: Inputs) -> Samples:
        return Samples(inputs, self.layer)

    def finish(self) -> tuple[dict[str, NewValue], float | None]:
        cut = self.cut
        # In an order of their own: a search amplifies what another order of a sum changes.
        calls = sorted(self.probe.calls, key=lambda call: float(content_keys(*call).sum()))
        missing = self.probe.evidence.missing
        values, error = fitted(self.layer, cut, [] if missing else calls)
        if missing:
            self.notes = (f"not fitted: in the batches of the first process, {missing}",)
        elif all(torch.equal(value, cut.p[name].to(value)) for name, value in values.items()):
            self.judge(error, error)  # no rows were better than those given
        found = {name: replace(self.changes[name], value=v) for name, v in values.items()}
        return self.changes | found, error


def fitted(
    full: MatrixStateLayer, cut: MatrixStateLayer, calls: Sequence[Call]
) -> tuple[dict[str, Tensor], float | None]:
    """The parameters that make keys and queries, and the relative error of what states add.

    A layer that no batch reached keeps its rows.
    """
    values = {name: cut.p[name].to(cut.dtype) for name in cut.made_by}
    if not calls:
        return values, None
    parts = [(part.name, part.at.to(values[part.name].device)) for part in cut.parts()]
    start = [values[name][at] for name, at in parts]
    width = start[0].shape[1]
    covariance, count, energy = start[0].new_zeros(width, width), 0, 0.0
    misses = []
    for hidden, mask in calls:
        with torch.no_grad():
            inputs, miss, added = _problem(full, cut, hidden, mask)
        misses.append(miss)
        covariance += inputs.mT @ inputs
        count += len(inputs)
        energy += float(added.double().square().sum())
    found, error = fit_rows(misses, start, covariance / max(count, 1), energy)
    for (name, at), rows in zip(parts, found, strict=True):
        values[name] = values[name].index_copy(0, at, rows)
    return values, error


def _problem(
    full: MatrixStateLayer, cut: MatrixStateLayer, hidden: Tensor, mask: Tensor | None
) -> tuple[Tensor, Callable[[Rows], Tensor], Tensor]:
    """Inputs of the rows (T, F), what they miss of the output, and what the states add to it."""
    s, few = full.signals(hidden, mask), cut.signals(hidden, mask)
    inputs, counts = cut.row_inputs(hidden, few), s.mask
    target = full.mapped(full.activations(s, full.scan(s)))
    skip = full.mapped(full.activations(s, torch.zeros_like(s.values)))

    def miss(rows: Rows) -> Tensor:
        keys, queries = cut.keys_and_queries(rows, inputs, counts)
        now = replace(few, keys=keys, queries=queries)
        return (cut.mapped(cut.activations(now, cut.scan(now))) - target)[counts]

    return inputs[counts], miss, (target - skip)[counts]
