"""Corrections that go over recorded inputs of the layer many times."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.families.matrix_state.choice import NewValue
from compressm.families.matrix_state.corrections.base import Correction
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.probes import Inputs, LayerProbe, Seen
from compressm.numerics.sampling import content_keys

# Numbers that every narrow layer may keep: 128 MiB in single precision. All layers of a model that
# are cut together keep theirs at the same time.
_NARROW = 2**25

Call = tuple[Tensor, Tensor | None]  # hidden states (B, L, width), mask (B, L)


@final
class Samples(LayerProbe):
    """Inputs of the layer, as they are.

    On several ranks the fit is made by the first, from its own data.
    """

    per_call = 4096

    def __init__(self, inputs: Inputs, layer: MatrixStateLayer, tokens: int) -> None:
        super().__init__(inputs, layer)
        self.tokens = tokens
        self.calls: list[Call] = []

    def add(self, seen: Seen) -> None:
        self.calls.append((seen.hidden, seen.mask))

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Nothing is summed."""


class OnSamples(Correction):
    """Base of these corrections; a subclass searches for better values.

    Attributes:
        tokens: that are recorded at most.
        more: that are recorded at most of narrow layers.
    """

    probe: Samples
    tokens: ClassVar[int] = 16384
    more: ClassVar[int] = 0

    @final
    def watch(self, inputs: Inputs) -> Samples:
        width = self.layer.p[self.layer.made_by[0]].shape[-1]
        return Samples(inputs, self.layer, max(self.tokens, min(self.more, _NARROW // width)))

    @final
    def finish(self) -> tuple[dict[str, NewValue], float | None]:
        cut = self.cut
        missing = self.probe.evidence.missing
        if missing:
            self.notes = (f"not fitted: in the batches of the first process, {missing}",)
            return self.changes, None
        # In an order of their own: a search amplifies what another order of a sum changes.
        calls = sorted(self.probe.calls, key=lambda call: float(content_keys(*call).sum()))
        values, error = self.search(cut, calls)
        if all(torch.equal(value, cut.p[name].to(value)) for name, value in values.items()):
            self.judge(error, error)  # no values were better than those given
        found = {name: replace(self.changes[name], value=v) for name, v in values.items()}
        return self.changes | found, error

    @abstractmethod
    def search(
        self, cut: MatrixStateLayer, calls: Sequence[Call]
    ) -> tuple[dict[str, Tensor], float | None]:
        """Better parameters of the cut layer, and the relative error of what states add."""


def added(layer: MatrixStateLayer, call: Call) -> tuple[Tensor, Tensor]:
    """What the full layer puts out without what lies beside its states, and what they add to it."""
    s = layer.signals(*call)
    target = layer.mapped(layer.activations(s, layer.scan(s)))
    skip = layer.mapped(layer.activations(s, torch.zeros_like(s.values)))
    return target, (target - skip)[s.mask]
