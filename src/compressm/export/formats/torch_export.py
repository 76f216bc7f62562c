"""`torch-export`: the graph as torch.export saves it, for torch without compressm."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from compressm.export.formats.base import Format, Run, register_format
from compressm.export.graphs import Graph


@final
@register_format("torch-export")
class TorchExport(Format):
    """A .pt2 file: `torch.export.load(path).module()` runs it."""

    suffix: ClassVar[str] = ".pt2"
    extra: ClassVar[str] = ""

    def encode(self, graph: Graph) -> bytes:
        for part in graph.program.graph_module.modules():
            for node in getattr(getattr(part, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)  # paths of this machine
        written = io.BytesIO()
        torch.export.save(graph.program, written, extra_files={"compressm.json": graph.card()})
        return written.getvalue()

    def read(self, content: bytes) -> Run:
        module = torch.export.load(io.BytesIO(content)).module()

        def run(given: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                results = module(*given)
            return [results] if isinstance(results, Tensor) else list(results)

        return run
