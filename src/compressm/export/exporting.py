"""`export`: a model to a file that is written only if it computes what the model computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from compressm.arguments import amount, instance
from compressm.errors import ConfigError, InputError
from compressm.export.formats import FORMATS, INT8, Format, Run
from compressm.export.graphs import FORMS, Form, Graph, streaming, trace
from compressm.export.parity import Parity, compare, expected_of
from compressm.storage.files import write_bytes
from compressm.storage.outputs import require_file

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported model, read again and ready to run.

    Attributes:
        content: of the file.
        graph: what it computes: `graph.zeros(batch)` are the states before the first step.
        run: computes it on one core: [inputs, *states] -> [outputs, *new states].
        parity: how far it is from the model, in float32.
        int8: how far it is with weights of 8 bits, which the content then has; else None.
    """

    content: bytes
    graph: Graph
    run: Run
    parity: Parity
    int8: Parity | None = None


def export(
    model: nn.Module,
    path: str | Path,
    inputs: Tensor,
    *,
    format: str = "onnx",
    form: Form = "step",
    int8: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write a model to a file for devices, if the file computes what the model computes.

        step:      outputs_t, states_t = f(inputs_t, states_{t-1})
        block:     the same for a stretch of steps, of any length
        sequence:  outputs = f(inputs), from zero states

    All arithmetic is real and in float32, states are inputs and outputs, and the batch is of any
    size. What the file gives for `inputs` is compared with what the model gives for whole
    sequences before anything is written.

    Args:
        model: a `SequenceClassifier`, a model of a recipe, a recurrent language model of
            transformers, or any module with `initial_state(batch)` and `step(inputs, state)`. It is
            not changed.
        path: of the file, which is replaced if it is there.
        inputs: sequences that the model was not trained on, (B, L, C) real or (B, L) tokens.
        format: name of a registered format: "onnx", "torch-export" or "executorch".
        form: "step", "block" or "sequence".
        int8: weights of matrix products in 8 bits, where the format has them. The tolerance is that
            of the file in float32; how far the other one is off is in what is returned.
        tolerance: largest difference of outputs, relative to the largest output.

    Raises:
        ParityError: the difference is over the tolerance; nothing is written.
        InputError: the model cannot stream, or the inputs do not fit.
        ConfigError: the format does not exist, cannot hold this form, or has no 8 bits.
        MissingExtraError: what the format needs is not installed.
        OutputError: the file cannot be written.
    """
    require_file(path, "path")
    exported = exported_of(model, inputs, format=format, form=form, int8=int8, tolerance=tolerance)
    write_bytes(path, exported.content)
    return exported


def exported_of(
    model: nn.Module,
    inputs: Tensor,
    *,
    format: str = "onnx",
    form: Form = "step",
    int8: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """What `export` would write.

    Raises:
        ParityError, InputError, ConfigError, MissingExtraError: as `export`.
    """
    instance("inputs", inputs, Tensor)
    amount("tolerance", tolerance)
    if inputs.ndim not in (2, 3) or 0 in inputs.shape:
        raise InputError(
            "inputs: expected sequences (batch, length, channels) or tokens (batch, length), got "
            f"shape {tuple(inputs.shape)}"
        )
    writer = _format(format, form, int8)
    streamed = streaming(model)
    given = inputs.detach().cpu()[: writer.largest_batch]
    given = given.float() if given.is_floating_point() else given.long()
    expected = expected_of(streamed, given)
    graph = trace(streamed, given, form, largest_batch=writer.largest_batch)
    content = writer.encode(graph)
    run = writer.read(content)
    parity = compare(graph, run, expected, given)
    parity.require(tolerance)
    if not int8:
        return Exported(content=content, graph=graph, run=run, parity=parity)
    content = INT8.find(format)(content)
    run = writer.read(content)
    return Exported(
        content=content,
        graph=graph,
        run=run,
        parity=parity,
        int8=compare(graph, run, expected, given),
    )


def _format(name: str, form: str, int8: bool) -> Format:
    kind = FORMATS.find(name, "format")
    if form not in FORMS:
        raise ConfigError(f"form: got {form!r}, expected one of {', '.join(FORMS)}")
    if form not in kind.forms:
        raise ConfigError(
            f"form: {name} files hold no {form!r}, only {', '.join(map(repr, kind.forms))}; for "
            f"{form!r} use the format onnx or torch-export"
        )
    if int8 and name not in INT8:
        raise ConfigError(
            f"int8: {name} files have no weights of 8 bits here; use {', '.join(sorted(INT8))}"
        )
    return kind()
