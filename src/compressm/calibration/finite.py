"""NaN and infinity, found before a cut spreads them, and named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from compressm.calibration import Calibration, Probe
from compressm.errors import NonFiniteError
from compressm.storage.bits import tensors_in


def require_finite_layer(name: str, layer: nn.Module) -> None:
    """Refuse a layer any of whose parameters or buffers holds NaN or infinity.

    Also those that a method does not look at: a cut layer would go on with them.

    Raises:
        NonFiniteError: names the layer and the first such tensor.
    """
    for kind, named in (("parameter", layer.named_parameters()), ("buffer", layer.named_buffers())):
        for key, tensor in named:
            if bad := _bad(tensor):
                raise NonFiniteError(
                    f"layer {name!r}: its {kind} {key} holds {bad} non-finite entries of "
                    f"{tensor.numel()}, so the training has diverged; go back to a checkpoint from "
                    "before, or lower the learning rate"
                )


def divergence(calibration: Calibration, model: nn.Module, probes: Sequence[Probe]) -> str | None:
    """Where NaN or infinity first appears when the batches pass through the model, in words.

    Runs them again, one by one; None where everything is finite after all.
    """
    for i, batch in enumerate(calibration.data):
        if any(_bad(t) for t in tensors_in(batch)):
            return f"data: batch {i} holds NaN or infinity"
        one, seen = replace(calibration, data=[batch]), _First()
        one.run(model, [_Watch(name, module, seen) for name, module in model.named_modules()])
        if seen.found:
            return (
                f"data: in batch {i} activations are first non-finite at the output of "
                f"{seen.name or 'the model'} ({seen.kind}); its inputs are not"
            )
        if one.loss is None or not any(probe.needs_gradient for probe in probes):
            continue
        layers = {id(probe.module) for probe in probes}
        named = [(name, m) for name, m in model.named_modules() if id(m) in layers]
        where = _First()
        one.run(model, [_Watch(name, m, where, gradient=True) for name, m in named])
        if where.found:
            return (
                f"loss: in batch {i} its gradient with respect to the output of layer "
                f"{where.name!r} is non-finite"
            )
    return None


class _First:
    """The module that was found first."""

    name: str = ""
    kind: str = ""
    found: bool = False


@final
class _Watch:
    """A probe that looks for the first output, or gradient, that is no number."""

    def __init__(
        self, name: str, module: nn.Module, first: _First, *, gradient: bool = False
    ) -> None:
        self.name, self.module, self.first = name, module, first
        self.needs_gradient = gradient

    def record(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """Look at one call."""
        if self.first.found:
            return
        if self.needs_gradient:
            found = gradient is not None and bool(_bad(gradient))
        else:
            # Masks are -inf on purpose.
            found = _diverged(tensors_in(output)) and not _diverged(tensors_in((args, kwargs)))
        if found:
            self.first.name, self.first.kind = self.name, type(self.module).__name__
            self.first.found = True


def _diverged(tensors: Iterable[Tensor]) -> bool:
    numbers = (t.detach() for t in tensors if _holds_numbers(t))
    return any(bool((t.isnan() | (t.isinf() & (t.real > 0))).any()) for t in numbers)


def _bad(tensor: Tensor) -> int:
    """How many entries are NaN or infinite; of shards, ours."""
    if not _holds_numbers(tensor):
        return 0
    return int((~torch.isfinite(tensor.detach())).sum())


def _holds_numbers(tensor: Tensor) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and not tensor.is_meta
