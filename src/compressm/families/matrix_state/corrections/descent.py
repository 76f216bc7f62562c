"""All that has a size by the states of a cut layer, fitted to the output of the full one.

Rows that make keys and queries, channels of their convolutions, rows of decays: whatever the layout
of the layer lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.families.matrix_state.corrections.base import register_correction
from compressm.families.matrix_state.corrections.samples import Call, OnSamples, added
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.numerics.matrix_state.descent import Part, Values, descend


@final
@register_correction("descent")
class Descent(OnSamples):
    """From the weights on, by stochastic gradients."""

    label: ClassVar = "weights where it can, all entries of the states"
    more: ClassVar[int] = 2**19

    def search(
        self, cut: MatrixStateLayer, calls: Sequence[Call]
    ) -> tuple[dict[str, Tensor], float | None]:
        axes = cut.layout.parameters
        entries = {
            name: axis.entries(cut.state_dim).flatten().to(cut.p[name].device)
            for name, axis in axes.items()
        }
        start = [cut.p[n].to(cut.dtype).index_select(axes[n].dim, at) for n, at in entries.items()]

        def values_of(found: Values) -> dict[str, Tensor]:
            pairs = zip(entries.items(), found, strict=True)
            return {
                name: cut.p[name].to(cut.dtype).index_copy(axes[name].dim, at, value)
                for (name, at), value in pairs
            }

        def part_of(call: Call) -> Part:
            with torch.no_grad():
                target, states = added(self.layer, call)

            def miss(found: Values) -> Tensor:
                now = cut.with_values(values_of(found))
                s = now.signals(*call)
                return (now.mapped(now.activations(s, now.scan(s))) - target)[s.mask]

            return Part(miss=miss, energy=float(states.double().square().sum()))

        covariance = _covariance(cut, calls)
        whitened = [covariance if name in cut.made_by else None for name in entries]
        found, _, error = descend([part_of(call) for call in calls], start, whitened)
        return values_of(found), error


def _covariance(cut: MatrixStateLayer, calls: Sequence[Call]) -> Tensor:
    """E[x x'] of what the rows that make keys and queries meet."""
    total, count = torch.zeros((), dtype=torch.float64, device="cpu"), 0
    with torch.no_grad():
        for hidden, mask in calls:
            s = cut.signals(hidden, mask)
            x = cut.row_inputs(hidden, s)[s.mask].double().cpu()
            total, count = total + x.mT @ x, count + len(x)
    return total / max(count, 1)
