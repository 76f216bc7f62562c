"""`executorch`: for phones and microcontrollers, by the runtime of ExecuTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

from torch import Tensor

from compressm.errors import MissingExtraError
from compressm.export.formats.base import Format, Run, register_format
from compressm.export.graphs import Form, Graph, quiet


@final
@register_format("executorch")
class Executorch(Format):
    """A .pte file with the portable kernels, one step of one stream at a time.

    ExecuTorch plans memory ahead and has no scan, so a stretch of steps is a loop of the device's.
    """

    suffix: ClassVar[str] = ".pte"
    extra: ClassVar[str] = "executorch"
    forms: ClassVar[tuple[Form, ...]] = ("step",)
    single: ClassVar[bool] = True

    def encode(self, graph: Graph) -> bytes:
        try:
            from executorch.exir import to_edge_transform_and_lower
        except ImportError as error:
            raise MissingExtraError("executorch", self.extra) from error
        with quiet():
            program = to_edge_transform_and_lower(
                graph.program, constant_methods={"compressm": graph.card()}
            ).to_executorch()
        return bytes(program.buffer)

    def read(self, content: bytes) -> Run:
        from executorch.runtime import Runtime

        # The method reads the program's memory, so both live as long as what is returned.
        program: Any = Runtime.get().load_program(content)
        method = program.load_method("forward")

        def run(given: Sequence[Tensor]) -> list[Tensor]:
            return [x.clone() for x in method.execute(list(given))]

        return run
