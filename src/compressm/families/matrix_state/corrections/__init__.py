"""What makes up for the states that go, by name (`correct`): one file each."""

from compressm.families.matrix_state.corrections import descent as descent
from compressm.families.matrix_state.corrections import fit as fit
from compressm.families.matrix_state.corrections import output as output
from compressm.families.matrix_state.corrections import refit as refit
from compressm.families.matrix_state.corrections import weights as weights
from compressm.families.matrix_state.corrections.base import (
    CORRECTIONS,
    Correction,
    register_correction,
)

__all__ = ["CORRECTIONS", "Correction", "register_correction"]
