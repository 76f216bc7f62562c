"""The output map of a cut layer, fitted to the full one by linear least squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.edits import Selection
from compressm.families.matrix_state.choice import NewValue
from compressm.families.matrix_state.corrections.base import Correction, register_correction
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.probes import Inputs, LayerProbe, Seen
from compressm.numerics.matrix_state.mixing import OutputMoments
from compressm.numerics.matrix_state.states import output_of


@final
class OutputProbe(LayerProbe):
    """Moments of what the output map sees, in the full layer and in the cut one."""

    def __init__(self, inputs: Inputs, layer: MatrixStateLayer, cut: MatrixStateLayer) -> None:
        super().__init__(inputs, layer)
        self._cut = cut
        self.moments = OutputMoments(layer.out_weight.shape[1])

    def add(self, seen: Seen) -> None:
        full, skip = self._activations(self.layer, seen)
        cut, _ = self._activations(self._cut, seen)
        self.moments.update(full, cut, skip)

    def _activations(self, layer: MatrixStateLayer, seen: Seen) -> tuple[Tensor, Tensor]:
        """(T, D) what the output map of a layer sees, and what it would see without states."""
        s, steps = layer.signals(seen.hidden, seen.mask), seen.steps.to(seen.hidden.device)
        outputs = (output_of(s), torch.zeros_like(s.values))
        whole, skip = (layer.activations(s, y)[:, steps][s.mask[:, steps]] for y in outputs)
        return whole, skip

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.evidence.pool(total)
        self.moments.pool(total)


@final
@register_correction("output")
class OutputFit(Correction):
    """The output map, with weights of the contributions where the layer can store them."""

    label: ClassVar = "weights where it can, output projection"
    probe: OutputProbe

    def watch(self, inputs: Inputs) -> OutputProbe:
        return OutputProbe(inputs, self.layer, self.cut)

    def finish(self) -> tuple[dict[str, NewValue], float | None]:
        name = f"{self.layer.out_map}.weight"
        before = self.changes.get(name)
        old = self.layer.p[name] if before is None else before.value
        # Columns in front belong to something else that shares the map.
        own = self.layer.out_weight.shape[1]
        weight, error = self.probe.moments.solve(self.layer.p[name][:, -own:], old[:, -own:])
        self.judge(self.probe.moments.unfitted, error)
        weight = torch.cat([old[:, :-own].to(weight), weight], 1)
        every = torch.arange(len(old), device="cpu")
        rule = Selection(every, 0) if before is None else before.transport
        assert isinstance(rule, Selection)
        made = replace(rule, made=partial(_fitted, rule, self.probe.moments, own))
        return self.changes | {name: NewValue(weight, made)}, error


def _fitted(
    rule: Selection, moments: OutputMoments, own: int, maps: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The same fit of other maps: it is linear in the map of the full layer."""
    (full,), (start,) = maps, rule.kept(maps)
    fitted = moments.fitted(full[:, -own:], start[:, -own:])
    return (torch.cat([start[:, :-own].to(fitted), fitted], 1),)
