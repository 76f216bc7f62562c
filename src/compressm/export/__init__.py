"""Models as files for devices: one step with its states, or whole sequences, in real arithmetic."""

from compressm.export.exporting import (
    TOLERANCE,
    Exported,
    export,
    exported_of,
    require_format,
    to_int8,
)
from compressm.export.formats import FORMATS, INT8, Format, Run, register_format, register_int8
from compressm.export.graphs import FORMS, Form, Graph
from compressm.export.parity import Parity, outputs_of

__all__ = [
    "FORMATS",
    "FORMS",
    "INT8",
    "TOLERANCE",
    "Exported",
    "Form",
    "Format",
    "Graph",
    "Parity",
    "Run",
    "export",
    "exported_of",
    "outputs_of",
    "register_format",
    "register_int8",
    "require_format",
    "to_int8",
]
