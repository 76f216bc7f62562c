"""`export`: a model to a file that is written only if it computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from compressm.arguments import amount, instance
from compressm.errors import CompressmError, ConfigError, InputError
from compressm.export.formats import FORMATS, INT8, Format, Run
from compressm.export.graphs import FORMS, Form, Graph, trace
from compressm.export.parity import Parity, compare, expected_of, in_float32, outputs_of
from compressm.export.streamed import streaming
from compressm.storage.files import write_bytes
from compressm.storage.outputs import require_file

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported model, read again and ready to run.

    Attributes:
        format: name of the format.
        content: of the file.
        graph: what it computes: `graph.zeros(batch)` are the states before the first step.
        run: computes it on one core: [inputs, *states] -> [outputs, *new states].
        parity: how far it is from the model; with weights of 8 bits, from the file in float32.
    """

    format: str
    content: bytes
    graph: Graph
    run: Run
    parity: Parity


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
    size (in ExecuTorch files of one). What the file gives for `inputs` is compared with what the
    model gives for whole sequences before anything is written.

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
    require_format(format, form, int8=int8)
    exported = exported_of(model, inputs, format=format, form=form, tolerance=tolerance)
    if int8:
        exported = to_int8(exported, inputs)
    write_bytes(path, exported.content)
    return exported


# Under autocast the graph would hold its casts, and the comparison its rounding.
@in_float32()
def exported_of(
    model: nn.Module,
    inputs: Tensor,
    *,
    format: str = "onnx",
    form: Form = "step",
    tolerance: float = TOLERANCE,
) -> Exported:
    """What `export` would write, in float32.

    Raises:
        ParityError, InputError, ConfigError, MissingExtraError: as `export`.
    """
    amount("tolerance", tolerance)
    writer = require_format(format, form)()
    streamed = streaming(model)
    given = _sequences(inputs)
    expected = expected_of(streamed.model, given)
    graph = trace(streamed, given, form, single=writer.single)
    try:
        content = writer.encode(graph)
    except CompressmError:
        raise
    # Whatever a converter makes of an operator that it does not know.
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"format: {format} cannot hold this {form}: {type(error).__name__}: {text}; take "
            "another format"
        ) from error
    run = writer.read(content)
    parity = compare(graph, run, expected, given)
    parity.require(tolerance)
    return Exported(format=format, content=content, graph=graph, run=run, parity=parity)


def to_int8(exported: Exported, inputs: Tensor) -> Exported:
    """The same with the weights of matrix products in 8 bits; `exported` stays as it is.

    Args:
        exported: in float32.
        inputs: sequences to compare the two on, (B, L, C) or (B, L).

    Raises:
        ConfigError: the format has no weights of 8 bits.
    """
    content = _require_int8(exported.format)(exported.content)
    graph, given = exported.graph, _sequences(inputs)
    run = FORMATS.find(exported.format)().read(content)
    parity = compare(graph, run, outputs_of(graph, exported.run, given), given)
    return replace(exported, content=content, run=run, parity=parity)


def _sequences(inputs: Tensor) -> Tensor:
    instance("inputs", inputs, Tensor)
    if inputs.ndim not in (2, 3) or 0 in inputs.shape:
        raise InputError(
            "inputs: expected sequences (batch, length, channels) or tokens (batch, length), got "
            f"shape {tuple(inputs.shape)}"
        )
    given = inputs.detach().cpu()
    if given.is_complex():
        raise InputError(f"inputs: expected real values or tokens, got {given.dtype}")
    if not given.is_floating_point():
        return given.long()
    if not given.isfinite().all():
        raise InputError("inputs: expected finite values, got some that are infinite or no number")
    return given.float()


def _require_int8(format: str) -> Callable[[bytes], bytes]:
    if format not in INT8:
        raise ConfigError(
            f"int8: {format} files have no weights of 8 bits here; use {', '.join(sorted(INT8))}"
        )
    return INT8[format]


def require_format(name: str, form: str, *, int8: bool = False) -> type[Format]:
    """The format of a name, if it can hold such a graph.

    Raises:
        ConfigError: there is no such format or form, or it cannot.
    """
    kind = FORMATS.find(name, "format")
    if form not in FORMS:
        raise ConfigError(f"form: got {form!r}, expected one of {', '.join(FORMS)}")
    if form not in kind.forms:
        raise ConfigError(
            f"form: {name} files hold no {form!r}, only {', '.join(map(repr, kind.forms))}; for "
            f"{form!r} use the format onnx or torch-export"
        )
    if int8:
        _require_int8(name)
    return kind
