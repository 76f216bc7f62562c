"""What is recorded of a layer while calibration batches pass through it."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from compressm.calibration.evidence import Evidence
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.orders.base import Call, Order
from compressm.numerics.checks import require_finite
from compressm.numerics.sampling import content_keys, sampled_sequences, sampled_steps

Inputs = Callable[[Sequence[Any], Mapping[str, Any]], tuple[Tensor, Tensor | None]]
# The share of the time steps that the moments take in: neighbours say much the same.
_RECORDED, _FEWEST = 0.25, 64
# A projection of a sequence, this many times modulo one, is as good as random, and yet the same
# where the sequence comes in another batch.
_FOLDS = 997.0
_ONE = torch.zeros(1, device="cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Some sequences of one call of a layer.

    Attributes:
        hidden: (B, L, width), what the layer was called with.
        mask: (B, L), nonzero where a token counts; or None.
        steps: (L,) bool, the time steps to look at.
        output: (B, L, width).
        gradient: dLoss/doutput (B, L, width), where it was asked for.
    """

    hidden: Tensor
    mask: Tensor | None
    steps: Tensor
    output: Tensor
    gradient: Tensor | None


class LayerProbe(ABC):
    """Reads a part of every call of one layer; a subclass says what is kept of it.

    The part does not depend on the order of the batches, nor on that of the sequences in them:
    all calls have the same share, and sequences are told apart by what is in them. Of sequences
    longer than the share, one of each call waits until all have been seen.

    Attributes:
        per_call: tokens that are looked at of each call.
        tokens: and of all calls together.
    """

    needs_gradient = False
    per_call, tokens = 1024, 8192

    def __init__(self, inputs: Inputs, layer: MatrixStateLayer) -> None:
        self.module, self.layer = layer.module, layer
        self._inputs = inputs
        self._share = self.per_call
        self.evidence = Evidence(needs_gradient=self.needs_gradient)
        self._long: list[tuple[float, Seen]] = []

    @final
    def expect(self, batches: int) -> None:
        """Be told how many batches there will be."""
        self._share = min(self.per_call, self.tokens // batches)

    @final
    def done(self) -> None:
        """Be told that there are no more: add what has waited."""
        waiting, self._long = self._long, []
        with torch.no_grad():
            for _, seen in waiting:
                self.add(seen)

    @final
    def record(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """Add one call of the layer, or a part of it: some sequences, some of their time steps."""
        hidden, mask = self._inputs(args, kwargs)
        batch, length, _ = hidden.shape
        rows = max(1, min(batch, self._share // length))
        for name, tensor in (("hidden states", hidden), ("gradient", gradient)):
            require_finite(name, tensor if mask is None or tensor is None else tensor[mask > 0])
        keys = content_keys(hidden, mask)
        chosen = sampled_sequences(keys, rows).to(hidden.device)
        recorded = max(round(_RECORDED * length), min(length, _FEWEST))
        output = output[0] if isinstance(output, tuple) else output
        seen = Seen(
            hidden=hidden.detach()[chosen],
            mask=None if mask is None else mask[chosen],
            steps=sampled_steps(_ONE, length, recorded)[0],
            output=output.detach()[chosen],
            gradient=None if gradient is None else gradient[chosen],
        )
        self.evidence.add(seen.hidden, seen.mask, seen.gradient)
        if length > self._share:
            self._wait(seen)
            return
        with torch.no_grad():
            self.add(seen)

    def _wait(self, seen: Seen) -> None:
        """Keep a call if it is among the first, by content, that there is room for."""
        hidden = seen.hidden.float()
        size = float((hidden if seen.mask is None else hidden[seen.mask > 0]).norm())
        key = float(content_keys(hidden, seen.mask)) / size if size else 0.0
        self._long.append((_FOLDS * key % 1.0, seen))
        self._long.sort(key=lambda one: one[0])
        tokens = list(itertools.accumulate(one.hidden.shape[1] for _, one in self._long))
        room = sum(total <= self.tokens for total in tokens)
        del self._long[max(room, 1) :]

    @abstractmethod
    def add(self, seen: Seen) -> None:
        """Keep what there is to keep."""

    @abstractmethod
    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw, the evidence included."""


@final
class OrderProbe(LayerProbe):
    """Shows calls of the layer to an order of its states."""

    def __init__(self, inputs: Inputs, layer: MatrixStateLayer, order: Order) -> None:
        self.needs_gradient = order.weigh == "gradient"
        super().__init__(inputs, layer)
        self.order = order

    def add(self, seen: Seen) -> None:
        s, W = self.layer.signals(seen.hidden, seen.mask), self.layer.out_weight
        slope = None
        if seen.gradient is not None:
            slope = (seen.gradient.to(W.dtype) @ W).view(s.gate.shape) * s.gate
        self.order.add(Call(signals=s, steps=seen.steps, out_weight=W, slope=slope))

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.evidence.pool(total)
        self.order.pool(total)
