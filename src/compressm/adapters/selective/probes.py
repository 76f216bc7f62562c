"""What is recorded of a selective layer while calibration batches pass through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from compressm.adapters.selective.layer import Method, SelectiveLayer
from compressm.numerics.averaged import AveragedDynamics
from compressm.numerics.contributions import ContributionMoments
from compressm.numerics.mixing import MixMoments, OutputMoments
from compressm.numerics.selective import (
    SelectiveSignals,
    selective_output,
    selective_states,
)

Inputs = Callable[[Sequence[Any], Mapping[str, Any]], tuple[Tensor, Tensor | None]]
# The share of the time steps that the moments take in: neighbours say much the same.
_RECORDED, _FEWEST = 0.25, 64


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
        self._generator = torch.Generator().manual_seed(0)

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
        chosen = torch.randperm(batch, generator=self._generator)[:rows].to(hidden.device)
        steps = torch.zeros(length, dtype=torch.bool)
        recorded = max(round(_RECORDED * length), min(length, _FEWEST))
        steps[torch.randperm(length, generator=self._generator)[:recorded]] = True
        hidden, mask = hidden.detach()[chosen], None if mask is None else mask[chosen]
        output = output[0] if isinstance(output, tuple) else output
        gradient = None if gradient is None else gradient[chosen]
        with torch.no_grad():
            self.add(hidden, mask, steps, output.detach()[chosen], gradient)

    @abstractmethod
    def add(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        steps: Tensor,
        output: Tensor,
        gradient: Tensor | None,
    ) -> None:
        """Keep what there is to keep of the sequences `hidden` at the time steps `steps`."""


@final
class Contributions(LayerProbe):
    """Gram matrices of what the states contribute, and averaged dynamics where they are asked."""

    def __init__(self, inputs: Inputs, layer: SelectiveLayer, method: Method) -> None:
        super().__init__(inputs, layer)
        self.needs_gradient = method.weigh == "gradient"
        self.moments = ContributionMoments(layer.blocks, layer.state_dim, method.weigh)
        self.averages = AveragedDynamics() if method.order == "hankel" else None

    def add(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        steps: Tensor,
        output: Tensor,
        gradient: Tensor | None,
    ) -> None:
        s, W = self.layer.signals(hidden, mask), self.layer.out_weight
        slope = None
        if gradient is not None:
            slope = (gradient.to(W.dtype) @ W).view(s.gate.shape) * s.gate
        self.moments.update(s, steps, out_weight=W, gradient=slope)
        if self.averages is not None:
            self.averages.update(s)

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""
        self.moments.pool(total)
        if self.averages is not None:
            self.averages.pool(total)


@final
class Mixes(LayerProbe):
    """Normal equations for the kept rows of C (one group).

    What the full scan adds to the output is the layer's own output without its skip, so only the
    kept states have to be run, and more tokens can be looked at.
    """

    per_call, tokens = 4096, 16384

    def __init__(
        self, inputs: Inputs, layer: SelectiveLayer, kept: Tensor, start: Tensor, basis: Tensor
    ) -> None:
        super().__init__(inputs, layer)
        self._kept = kept
        self.moments = MixMoments(start, basis)

    def add(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        steps: Tensor,
        output: Tensor,
        gradient: Tensor | None,
    ) -> None:
        s, W = self.layer.signals(hidden, mask), self.layer.out_weight
        kept = self._kept.to(hidden.device)
        C, few = s.C, replace(s, A=s.A[..., kept], B=s.B[..., kept], C=s.C[..., kept])
        exact = torch.finfo(output.dtype).eps <= torch.finfo(torch.float32).eps
        if exact:
            skip = self.layer.activations(s, torch.zeros_like(s.x))
            scan = output - functional.linear(skip, W, self.layer.p.get("out_proj.bias"))
        else:  # half precision would be taken for something to fit
            scan = torch.matmul(selective_output(s).flatten(2) * s.gate.flatten(2), W.mT)
        scan = (scan * s.mask[..., None]).transpose(0, 1)
        gate = (s.gate[:, :, 0] * s.mask[..., None]).transpose(0, 1)
        for at, h in selective_states(few, steps):
            here = at.to(h.device)
            U = torch.matmul(W, h[:, :, 0] * gate[here][..., None])
            rows = C.transpose(0, 1)[here][:, :, 0]
            self.moments.update(U.flatten(0, 1), rows.flatten(0, 1), scan[here].flatten(0, 1))

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""
        self.moments.pool(total)


@final
class Samples(LayerProbe):
    """Inputs of the layer, as they are: what fits that go over the data many times need.

    On several ranks the fit is made by the first, from its own data.
    """

    per_call, tokens = 4096, 16384

    def __init__(self, inputs: Inputs, layer: SelectiveLayer) -> None:
        super().__init__(inputs, layer)
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def add(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        steps: Tensor,
        output: Tensor,
        gradient: Tensor | None,
    ) -> None:
        self.calls.append((hidden, mask))

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Nothing is summed."""


@final
class Outputs(LayerProbe):
    """Moments of what the output map sees, in the full layer and in the cut one."""

    def __init__(self, inputs: Inputs, layer: SelectiveLayer, cut: SelectiveLayer) -> None:
        super().__init__(inputs, layer)
        self._cut = cut
        self.moments = OutputMoments(layer.out_weight.shape[1])

    def add(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        steps: Tensor,
        output: Tensor,
        gradient: Tensor | None,
    ) -> None:
        both = []
        for layer in (self.layer, self._cut):
            s: SelectiveSignals = layer.signals(hidden, mask)
            u = layer.activations(s, selective_output(s))[:, steps.to(hidden.device)]
            both.append(u[s.mask[:, steps.to(hidden.device)]])
        self.moments.update(*both)

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""
        self.moments.pool(total)
