"""Families whose state is a matrix that keys write and queries read: Mamba, the delta rule, kin.

Three things, apart from each other: *signals* (`numerics.matrix_state.signals`) drive a
*recurrence* (`recurrences`), and a *family*, one file each, says how its layer makes them, where
its states are, and which map follows. Orders, corrections and their combinations work on signals,
recurrences and layouts, and know no layer.
"""

from compressm.families.matrix_state.adapter import MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.method import METHODS, MatrixStateMethod

__all__ = [
    "METHODS",
    "Choice",
    "MatrixStateAdapter",
    "MatrixStateLayer",
    "MatrixStateMethod",
    "NewValue",
]
