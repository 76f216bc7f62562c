"""What selective layer families (Mamba and its kin) share: methods, measuring, choosing, refits.

Their states can be selected, not mixed: A[d,n] differs between channels, or a nonlinearity stands
behind the projections to B and C. A family adds how its layer is read (`SelectiveLayer`) and what
a choice of states changes in it. Shapes as in `numerics.selective`.
"""

from compressm.families.matrix_state.adapter import METHODS, SelectiveAdapter
from compressm.families.matrix_state.layer import (
    Choice,
    MatrixStateMethod,
    NewValue,
    SelectiveLayer,
)

__all__ = [
    "METHODS",
    "Choice",
    "MatrixStateMethod",
    "NewValue",
    "SelectiveAdapter",
    "SelectiveLayer",
]
