"""What a reduction changes in a model, and how optimizer state follows; nothing is changed here."""

from compressm.edits.edit import Edit, holder_of
from compressm.edits.growth import Growth
from compressm.edits.state_map import LinearMap, StateMap
from compressm.edits.transport import Project, Reset, Selection, Transport

__all__ = [
    "Edit",
    "Growth",
    "LinearMap",
    "Project",
    "Reset",
    "Selection",
    "StateMap",
    "Transport",
    "holder_of",
]
