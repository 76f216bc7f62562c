"""What is recorded of a selective layer while calibration batches pass through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from compressm.adapters.selective.layer import Method, SelectiveLayer
from compressm.numerics.averaged import AveragedDynamics
from compressm.numerics.contributions import ContributionMoments

Inputs = Callable[[Sequence[Any], Mapping[str, Any]], tuple[Tensor, Tensor | None]]
# The share of the time steps that the moments take in: neighbours say much the same.
_RECORDED, _FEWEST = 0.25, 64


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

    Attributes:
        per_call: tokens that are looked at of each call.
        tokens: and of all calls together.
    """

    needs_gradient = False
    per_call, tokens = 1024, 8192

    def __init__(self, inputs: Inputs, layer: SelectiveLayer) -> None:
        self.module, self.layer = layer.module, layer
        self._inputs = inputs
        self._left = self.tokens
        self._generator = torch.Generator(device="cpu").manual_seed(0)

    @final
    def saw(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """Add one call of the layer, or a part of it: some sequences, some of their time steps."""
        hidden, mask = self._inputs(args, kwargs)
        batch, length, _ = hidden.shape
        if self._left <= 0:
            return
        rows = max(1, min(batch, self.per_call // length))
        self._left -= rows * length
        chosen = torch.randperm(batch, generator=self._generator, device="cpu")[:rows]
        chosen = chosen.to(hidden.device)
        steps = torch.zeros(length, dtype=torch.bool, device="cpu")
        recorded = max(round(_RECORDED * length), min(length, _FEWEST))
        steps[torch.randperm(length, generator=self._generator, device="cpu")[:recorded]] = True
        output = output[0] if isinstance(output, tuple) else output
        seen = Seen(
            hidden=hidden.detach()[chosen],
            mask=None if mask is None else mask[chosen],
            steps=steps,
            output=output.detach()[chosen],
            gradient=None if gradient is None else gradient[chosen],
        )
        with torch.no_grad():
            self.add(seen)

    @abstractmethod
    def add(self, seen: Seen) -> None:
        """Keep what there is to keep."""

    @abstractmethod
    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""


@final
class Contributions(LayerProbe):
    """Gram matrices of what the states contribute, and averaged dynamics where they are asked."""

    def __init__(self, inputs: Inputs, layer: SelectiveLayer, method: Method) -> None:
        super().__init__(inputs, layer)
        self.needs_gradient = method.weigh == "gradient"
        self.moments = ContributionMoments(layer.blocks, layer.state_dim, method.weigh)
        self.averages = AveragedDynamics() if method.order == "hankel" else None

    def add(self, seen: Seen) -> None:
        s, W = self.layer.signals(seen.hidden, seen.mask), self.layer.out_weight
        slope = None
        if seen.gradient is not None:
            slope = (seen.gradient.to(W.dtype) @ W).view(s.gate.shape) * s.gate
        self.moments.update(s, seen.steps, out_weight=W, gradient=slope)
        if self.averages is not None:
            self.averages.update(s)

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.moments.pool(total)
        if self.averages is not None:
            self.averages.pool(total)
