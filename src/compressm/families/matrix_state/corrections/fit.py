"""The rows that make keys and queries of a cut layer, fitted to the output of the full one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.families.matrix_state.corrections.base import register_correction
from compressm.families.matrix_state.corrections.samples import Call, OnSamples, added
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.numerics.matrix_state.fitting import Rows, fit_rows


@final
@register_correction("fit")
class Fit(OnSamples):
    """Both rows of each kept state, from the weights on, by L-BFGS."""

    label: ClassVar = "weights where it can, rows of keys and queries"

    def search(
        self, cut: MatrixStateLayer, calls: Sequence[Call]
    ) -> tuple[dict[str, Tensor], float | None]:
        values = {name: cut.p[name].to(cut.dtype) for name in cut.made_by}
        parts = [(part.name, part.at.to(values[part.name].device)) for part in cut.parts()]
        start = [values[name][at] for name, at in parts]
        width = start[0].shape[1]
        covariance, count, energy = start[0].new_zeros(width, width), 0, 0.0
        misses = []
        for call in calls:
            with torch.no_grad():
                inputs, miss, states = self._problem(cut, call)
            misses.append(miss)
            covariance += inputs.mT @ inputs
            count += len(inputs)
            energy += float(states.double().square().sum())
        found, error = fit_rows(misses, start, covariance / max(count, 1), energy)
        for (name, at), rows in zip(parts, found, strict=True):
            values[name] = values[name].index_copy(0, at, rows)
        return values, error

    def _problem(
        self, cut: MatrixStateLayer, call: Call
    ) -> tuple[Tensor, Callable[[Rows], Tensor], Tensor]:
        """Inputs of the rows (T, F), what they miss of the output, and what the states add."""
        few = cut.signals(*call)
        inputs, counts = cut.row_inputs(call[0], few), few.mask
        target, states = added(self.layer, call)

        def miss(rows: Rows) -> Tensor:
            keys, queries = cut.keys_and_queries(rows, inputs, counts)
            now = replace(few, keys=keys, queries=queries)
            return (cut.mapped(cut.activations(now, cut.scan(now))) - target)[counts]

        return inputs[counts], miss, states
