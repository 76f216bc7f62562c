"""Whether an exported file computes what the model computes.

B batch, L length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm.errors import CompressmError, InputError, ParityError
from compressm.export.formats import Run
from compressm.export.graphs import Graph


@contextmanager
def in_float32() -> Iterator[None]:
    """What a file computes in, whatever is set around it: no autocast, no gradients."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a file's outputs are from the model's.

    Attributes:
        absolute: the largest difference of two outputs.
        relative: that over the largest output of the model.
        sequences, steps: what was compared.
    """

    absolute: float
    relative: float
    sequences: int
    steps: int

    def require(self, tolerance: float) -> None:
        """Refuse a file that is too far off.

        Raises:
            ParityError: `relative` is over the tolerance, or no number.
        """
        if not self.relative <= tolerance:
            raise ParityError(
                f"the exported model is off by {self.absolute:.3g} (relative {self.relative:.3g}) "
                f"on {self.sequences} sequences of {self.steps} steps, which is over the tolerance "
                f"of {tolerance:g}; nothing was written"
            )


def compare(graph: Graph, run: Run, expected: Tensor, inputs: Tensor) -> Parity:
    """Run a file over whole sequences, and compare with what the model gives at once.

    Args:
        graph: that the file holds.
        run: the file, read again.
        expected: outputs of the model for the sequences, (B, L, K), or (B, K) of the last step.
        inputs: (B, L, C) or (B, L).

    Raises:
        InputError: the outputs differ in shape.
    """
    got = outputs_of(graph, run, inputs)
    if got.shape != expected.shape:
        raise InputError(
            f"model: its steps give outputs {tuple(got.shape)} for whole sequences, and its "
            f"forward gives {tuple(expected.shape)}; with pooling 'none' there is one for each step"
        )
    absolute = float((got - expected).abs().max())
    return Parity(
        absolute=absolute,
        relative=absolute / max(float(expected.abs().max()), torch.finfo(torch.float32).tiny),
        sequences=inputs.shape[0],
        steps=inputs.shape[1],
    )


@torch.no_grad()
def expected_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the model itself gives in float32, by whichever code it runs.

    Raises:
        InputError: it cannot run the inputs, or what it gives is no tensor of finite numbers.
    """
    try:
        outputs = model(inputs)
    except CompressmError:
        raise
    # Whatever a model that somebody else wrote says to inputs that are not its own.
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise InputError(
            f"inputs: the model cannot run {inputs.dtype} of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {text}; expected what it was trained on: real values "
            "(batch, length, channels) of a floating type, or tokens (batch, length) of its "
            "vocabulary"
        ) from error
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"model: its forward gives a {type(outputs).__name__}; expected the outputs as a tensor"
        )
    if not outputs.isfinite().all():
        raise InputError(
            "model: what it gives for these inputs is infinite or no number, so there is nothing "
            "to compare a file with; has its training diverged?"
        )
    return outputs


@in_float32()
def outputs_of(graph: Graph, run: Run, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
    """What a file gives for whole sequences: of a block or a step the states are handed on.

    Args:
        graph: that the file holds.
        run: the file.
        inputs: (B, L, C) or (B, L).
        lengths: (B,), where what is behind them is padding.

    Returns:
        (B, L, K), or (B, K) of the last step that is no padding.
    """
    if graph.single and inputs.shape[0] > 1:
        ends = [None] * len(inputs) if lengths is None else lengths[:, None]
        rows = zip(inputs[:, None], ends, strict=True)
        return torch.cat([outputs_of(graph, run, x, end) for x, end in rows])
    if graph.form != "step":
        return _stretches(graph, run, inputs, None if graph.per_step else lengths)
    states, every = graph.zeros(inputs.shape[0]), []
    last: Tensor | None = None
    for t in range(inputs.shape[1]):
        found, *states = run([inputs[:, t].contiguous(), *states])
        if graph.per_step:
            every.append(found)
        elif last is None or lengths is None:
            last = found
        else:
            last = torch.where((t < lengths)[:, None], found, last)
    return torch.stack(every, 1) if last is None else last


def _stretches(graph: Graph, run: Run, inputs: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is not None:
        rows = enumerate(lengths.tolist())
        return torch.cat([_stretches(graph, run, inputs[i : i + 1, :n], None) for i, n in rows])
    if graph.form == "sequence":
        return run([inputs.contiguous()])[0]
    # Two that differ in length, so that the states count.
    first = inputs.shape[1] // 3
    states, outputs = graph.zeros(inputs.shape[0]), []
    for piece in inputs.tensor_split([first], 1) if first else [inputs]:
        found, *states = run([piece.contiguous(), *states])
        outputs.append(found)
    return torch.cat(outputs, 1) if graph.per_step else outputs[-1]
