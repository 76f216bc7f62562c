"""Whether an exported file computes what the model computes.

B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm.errors import ParityError
from compressm.export.formats import Run
from compressm.export.graphs import Graph


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
    """
    got = outputs_of(graph, run, inputs)
    absolute = float((got - expected).abs().max())
    return Parity(
        absolute=absolute,
        relative=absolute / max(float(expected.abs().max()), torch.finfo(torch.float32).tiny),
        sequences=inputs.shape[0],
        steps=inputs.shape[1],
    )


@torch.no_grad()
def expected_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the model itself gives in float32, by whichever code it runs."""
    outputs: Tensor = model(inputs)
    return outputs


def outputs_of(graph: Graph, run: Run, inputs: Tensor) -> Tensor:
    """What a file gives for whole sequences: of a block or a step the states are handed on.

    Returns:
        (B, L, K), or (B, K) of the last step.
    """
    if graph.form == "sequence":
        return run([inputs])[0]
    length = inputs.shape[1]
    # Of a block two stretches that differ in length, so that the states count.
    cuts = range(length) if graph.form == "step" else sorted({0, length // 3})
    ends = [*list(cuts)[1:], length]
    states, outputs = graph.zeros(inputs.shape[0]), []
    for start, end in zip(cuts, ends, strict=True):
        piece = inputs[:, start] if graph.form == "step" else inputs[:, start:end]
        found, *states = run([piece.contiguous(), *states])
        outputs.append(found)
    if not graph.per_step:
        return outputs[-1]
    return torch.stack(outputs, 1) if graph.form == "step" else torch.cat(outputs, 1)
