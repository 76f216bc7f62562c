"""Real data through a model, so that layers can be observed at work.

B batch, L length, H width of a layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from compressm.arguments import function, shown, whole
from compressm.calibration.batches import accepted, afresh, contents, require_batches, to_device
from compressm.calibration.eager import hooked, uncompiled, unfolded
from compressm.errors import CompressmError, InputError
from compressm.runtime.randomness import unmoved
from compressm.runtime.steady import as_built, as_called, steady

Given = Literal["nothing", "data", "loss"]  # what a method has to look at; "loss" implies data
Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[nn.Module, Any], Tensor]


class Probe(Protocol):
    """Records what passes through one layer while calibration batches run."""

    module: nn.Module
    needs_gradient: bool

    def record(
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
        """Take the batches now; random numbers stay where they are, the loader's own too."""
        for name in ("forward", "loss"):
            if getattr(self, name) is not None:
                function(name, getattr(self, name), "model", "batch")
        if isinstance(self.loss, nn.modules.loss._Loss):
            raise InputError(
                f"loss: it is called as loss(model, batch), and {self.loss} takes predictions and "
                "targets; pass loss=lambda model, batch: criterion(model(batch[0]), batch[1])"
            )
        most = whole("max_batches", self.max_batches, 1)
        require_batches(self.data)
        with unmoved(self.data), as_called():
            batches = list(itertools.islice(iter(afresh(self.data)), most))
        if not batches:
            raise InputError("data: expected at least one calibration batch, got none")
        object.__setattr__(self, "data", batches)

    def run(self, model: nn.Module, probes: Sequence[Probe]) -> None:
        """Pass all batches through the model in evaluation mode and let the probes see them.

        Training flags and random number generators stay as they are.

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
        if gradients and any(p.is_inference() for p in model.parameters()):
            raise InputError(
                "model: it was built or loaded inside torch.inference_mode(), so no gradient can "
                "be taken; build it outside, or use a method without the loss"
            )
        by_module: dict[nn.Module, list[Probe]] = {}
        for probe in probes:
            by_module.setdefault(probe.module, []).append(probe)
        with self.evaluating(model), torch.set_grad_enabled(gradients):
            run = self._differentiate if gradients else self._watch
            seen = sum(run(model, by_module, batch) for batch in self.data)
        if not seen:
            raise InputError("data: no compressible layer was called by the calibration batches")

    @contextmanager
    def evaluating(self, *models: nn.Module) -> Iterator[None]:
        """Evaluation mode in eager mode; flags and generators are as they were afterwards."""
        flags = [(m, m.training) for model in models for m in model.modules()]
        for model in models:
            model.eval()
        try:
            with unmoved(*models, self.forward, self.loss), uncompiled(), unfolded():
                yield
        finally:
            for module, training in flags:
                module.training = training

    def call(self, model: nn.Module, batch: Any) -> Any:
        """What `forward`, or the model itself, gives back for a batch, with nobody watching.

        Raises:
            InputError: the model cannot take it.
        """
        with as_built():
            return self._call(model, to_device(batch, _device(model)))

    def _watch(self, model: nn.Module, probes: Mapping[nn.Module, list[Probe]], batch: Any) -> int:
        """Pass one batch through the model; probes see each call as it is made."""
        calls = 0

        def hook(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            nonlocal calls
            calls += 1
            _show(probes[module], args, kwargs, output)

        with hooked(probes, hook):
            self.call(model, batch)
        return calls

    def _differentiate(
        self, model: nn.Module, probes: Mapping[nn.Module, list[Probe]], batch: Any
    ) -> int:
        """Pass one batch through model and loss; probes see each call with dLoss/doutput.

        What a layer puts out becomes a place where gradients arrive, whether or not anything below
        it is trainable. The model goes on with a copy, so that what it does to it in place stays
        out of both the output and the gradient.
        """
        assert self.loss is not None
        calls: list[_Call] = []

        def hook(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            if not isinstance(first, Tensor):
                raise InputError(f"data: expected a layer to put out a tensor, got {shown(first)}")
            _show((p for p in probes[module] if not p.needs_gradient), args, kwargs, output)
            kept = first if first.requires_grad else first.detach().requires_grad_()
            calls.append(_Call(module, _copied(args), _copied(dict(kwargs)), output, kept))
            with torch.enable_grad():
                passed = kept.clone()
            return (passed, *output[1:]) if isinstance(output, tuple) else passed

        with hooked(probes, hook), as_built():
            result = self.loss(model, to_device(batch, _device(model)))
        for call, gradient in zip(calls, _gradients(result, calls), strict=True):
            for probe in probes[call.module]:
                if gradient is not None and probe.needs_gradient:
                    probe.record(call.args, call.kwargs, call.output, gradient)
        return len(calls)

    def on_device(self, model: nn.Module) -> Iterator[Any]:
        """The batches, where the model is."""
        return (to_device(batch, _device(model)) for batch in self.data)

    def _call(self, model: nn.Module, batch: Any) -> Any:
        if self.forward is not None:
            return self.forward(model, batch)
        mapped = isinstance(batch, Mapping)
        keywords = accepted(model, batch) if mapped else {}
        first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        try:
            return model(**keywords) if mapped else model(first)
        except (CompressmError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            given = ", ".join(keywords) if mapped else shown(first)
            raise InputError(
                f"data: {type(model).__name__}({given}) failed for a batch that is "
                f"{contents(batch)}: {type(error).__name__}: {error}; give batches that the model "
                "takes, or forward=lambda model, batch: …"
            ) from error


def _show(
    probes: Iterable[Probe], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
) -> None:
    """Let probes see a call in the midst of the model, which may be inside anything."""
    with steady(), torch.no_grad():
        for probe in probes:
            probe.record(args, kwargs, output, None)


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a layer, kept until the gradient at `arrival` is known."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    arrival: Tensor


def _gradients(loss: Any, calls: Sequence[_Call]) -> Sequence[Tensor | None]:
    """dLoss/doutput of each call; None where the loss does not depend on it."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        raise InputError(f"loss: expected a scalar tensor, got {shown(loss)}")
    if not calls:
        return ()
    if not loss.requires_grad:
        raise InputError(
            "loss: no gradient flows from it to any compressible layer; expected a tensor that is "
            "computed from their outputs without .item(), .detach() or torch.no_grad() in between"
        )
    try:
        return torch.autograd.grad(loss, [call.arrival for call in calls], allow_unused=True)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(
            f"loss: its gradient cannot be taken: {error}; use a method without the loss"
        ) from error


def some(u: Tensor, mask: Tensor | None, rows: int, steps: int) -> tuple[Tensor, Tensor | None]:
    """The first sequences and steps of a call: u (B, L, H) and mask (B, L) or None."""
    return u[:rows, :steps], None if mask is None else mask[:rows, :steps]


def given_by(calibration: Calibration | None) -> Given:
    """What a method has to look at."""
    if calibration is None:
        return "nothing"
    return "data" if calibration.loss is None else "loss"


def _copied(value: Any) -> Any:
    """Arguments of a call, safe from what the model does to them in place later."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


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
