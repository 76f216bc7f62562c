"""`onnx`: for ONNX Runtime, which runs on nearly everything, and needs neither torch nor Python."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from compressm.errors import ConfigError, MissingExtraError
from compressm.export.formats.base import Format, Run, register_format, register_int8
from compressm.export.graphs import Graph, quiet

# What a protobuf file can hold.
_LARGEST = 2**31 - 1


@register_int8("onnx")
def quantised(content: bytes) -> bytes:
    """The same file with weights of 8 bits: symmetric, with a scale for each output channel.

    They are multiplied with inputs that are brought to 8 bits as they come (dynamic quantisation of
    ONNX Runtime); sums are whole numbers, and recurrences stay in float32.
    """
    _packages()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            onnx.load_from_string(content),
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"EnableSubgraph": True},
        )
        return path.read_bytes()


@final
@register_format("onnx")
class Onnx(Format):
    """An .onnx file; a stretch of steps is a Scan in it."""

    suffix: ClassVar[str] = ".onnx"

    def encode(self, graph: Graph) -> bytes:
        onnx, _ = _packages()
        if graph.program.state_dict and _bytes(graph) > _LARGEST:
            raise ConfigError(
                "format onnx: the weights take more than the 2 GB that one .onnx file can hold; "
                "use --format torch-export"
            )
        with quiet():
            made: Any = torch.onnx.export(
                graph.program,
                (),
                input_names=graph.input_names,
                output_names=graph.output_names,
                dynamo=True,
                verbose=False,
            )
        proto = made.model_proto
        _strip(proto.graph)
        _drop_unused(proto.graph)
        entry = proto.metadata_props.add()
        entry.key, entry.value = "compressm", graph.card()
        onnx.checker.check_model(proto)
        content: bytes = proto.SerializeToString()
        return content

    def read(self, content: bytes) -> Run:
        _, onnxruntime = _packages()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]

        def run(given: Sequence[Tensor]) -> list[Tensor]:
            fed = {name: x.numpy() for name, x in zip(names, given, strict=True)}
            return [torch.from_numpy(y) for y in session.run(None, fed)]

        return run


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from error
    return onnx, onnxruntime


def _bytes(graph: Graph) -> int:
    return sum(value.nbytes for value in graph.program.state_dict.values())


def _strip(graph: Any) -> None:
    """Take out where each node comes from: most of a small file, with paths of this machine."""
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for inner in _inner(graph):
        _strip(inner)


def _drop_unused(graph: Any) -> None:
    """Take out constants that no node reads: ONNX Runtime warns of them at every start."""
    used = _read(graph)
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for inner in _inner(graph):
        _drop_unused(inner)


def _read(graph: Any) -> set[str]:
    """Names that its nodes and outputs read, those of the graphs in it included."""
    names = {name for node in graph.node for name in node.input}
    names.update(output.name for output in graph.output)
    return names.union(*map(_read, _inner(graph)))


def _inner(graph: Any) -> list[Any]:
    """The graphs in its nodes: what a Scan repeats."""
    attributes = (attribute for node in graph.node for attribute in node.attribute)
    return [attribute.g for attribute in attributes if attribute.HasField("g")]
