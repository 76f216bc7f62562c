"""Real data through a model, so that layers can be observed at work.

B batch, L length, H width of a layer.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from compressm.errors import InputError

Given = Literal["nothing", "data", "loss"]  # what a method has to look at; "loss" implies data
Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[nn.Module, Any], Tensor]


class Probe(Protocol):
    """Records what passes through one layer while calibration batches run."""

    module: nn.Module
    needs_gradient: bool

    def saw(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """One call of the layer: its arguments, its output, dLoss/doutput where asked for."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A few batches, kept so that several passes see the same data, and how to run them.

    Args:
        data: batches. A dict is passed as keywords (those that the model's `forward` takes), of a
            tuple or list the first item is the input, anything else is the input itself.
        forward: `forward(model, batch)` for batches of any other shape.
        loss: `loss(model, batch) -> scalar`, needed by gradient-weighted methods only.
        max_batches: how many batches are taken from `data` (they stay in memory as they are).
    """

    data: Iterable[Any]
    forward: Forward | None = None
    loss: Loss | None = None
    max_batches: int = 16

    def __post_init__(self) -> None:
        """Take the batches now, without moving the training's random numbers."""
        with torch.random.fork_rng(devices=[]):
            batches = list(itertools.islice(iter(self.data), self.max_batches))
        if not batches:
            raise InputError("data: expected at least one calibration batch, got none")
        object.__setattr__(self, "data", batches)

    def run(self, model: nn.Module, probes: Sequence[Probe]) -> None:
        """Pass all batches through the model in evaluation mode and let the probes see them.

        Parameters' `.grad`, buffers, training flags and random number generators stay as they are.

        Raises:
            InputError: a probe needs gradients and no `loss` was given, or a probed layer was
                never called.
        """
        if not probes:
            return
        gradients = any(probe.needs_gradient for probe in probes)
        if gradients and self.loss is None:
            raise InputError(
                "loss: this method weights states by the loss gradient; "
                "pass loss=lambda model, batch: <scalar>"
            )
        flags = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.random.fork_rng(), torch.set_grad_enabled(gradients), _uncompiled():
                seen = sum(self._run_batch(model, probes, batch, gradients) for batch in self.data)
        finally:
            for module, training in flags:
                module.training = training
        if not seen:
            raise InputError("data: no compressible layer was called by the calibration batches")

    def _run_batch(
        self, model: nn.Module, probes: Sequence[Probe], batch: Any, gradients: bool
    ) -> int:
        calls: list[tuple[Probe, tuple[Any, ...], Mapping[str, Any], Any]] = []

        def watch(probe: Probe) -> Callable[..., None]:
            def hook(_: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
                if gradients:
                    calls.append((probe, args, kwargs, output))
                else:  # nothing to wait for, so no activation outlives its layer
                    calls.append((probe, (), {}, None))
                    probe.saw(args, kwargs, output, None)

            return hook

        with ExitStack() as hooks:
            for probe in probes:
                handle = probe.module.register_forward_hook(watch(probe), with_kwargs=True)
                hooks.callback(handle.remove)
            batch = _to_device(batch, _device(model))
            result = (
                self.loss(model, batch) if gradients and self.loss else self._call(model, batch)
            )
        if gradients:
            self._differentiate(result, calls)
        return len(calls)

    @staticmethod
    def _differentiate(
        loss: Any, calls: list[tuple[Probe, tuple[Any, ...], Mapping[str, Any], Any]]
    ) -> None:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise InputError(f"loss: expected a scalar tensor, got {_describe(loss)}")
        outputs = [call[3][0] if isinstance(call[3], tuple) else call[3] for call in calls]
        grads = torch.autograd.grad(loss, outputs, allow_unused=True)
        for (probe, args, kwargs, output), grad in zip(calls, grads, strict=True):
            if grad is not None:
                probe.saw(args, kwargs, output, grad)

    def _call(self, model: nn.Module, batch: Any) -> Any:
        if self.forward is not None:
            return self.forward(model, batch)
        if isinstance(batch, Mapping):
            return model(**_accepted(model, batch))
        return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def given_by(calibration: Calibration | None) -> Given:
    """What a method has to look at."""
    if calibration is None:
        return "nothing"
    return "data" if calibration.loss is None else "loss"


def _accepted(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a dict batch that `model.forward` takes (labels often travel along)."""
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(batch)
    accepted = {key: value for key, value in batch.items() if key in parameters}
    if not accepted:
        raise InputError(
            f"data: the batch has the keys {sorted(batch)}, of which {type(model).__name__}.forward"
            f"({', '.join(parameters)}) takes none; pass forward=lambda model, batch: …"
        )
    return accepted


def _uncompiled() -> AbstractContextManager[Any]:
    """Compiled code skips hooks that were set after it was made, so the probes need eager mode.

    Where nobody has imported the compiler nothing is compiled, and its import takes seconds.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return [_to_device(item, device) for item in batch]
    return batch


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def calibration_of(
    data: Iterable[Any] | Calibration | None, forward: Forward | None, loss: Loss | None
) -> Calibration | None:
    """`data` as a `Calibration` (or None), however it was given.

    Raises:
        InputError: `forward` or `loss` without batches of its own to run on.
    """
    if data is None or isinstance(data, Calibration):
        if forward is not None or loss is not None:
            raise InputError(
                "forward, loss: these say how `data` runs through the model; give them together "
                "with data=<batches>, or inside the Calibration"
            )
        return data
    return Calibration(data, forward=forward, loss=loss)
