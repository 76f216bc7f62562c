"""Second passes over the data that make up for the states that go, by name (`correct`)."""

from compressm.families.matrix_state.corrections.base import Correction
from compressm.families.matrix_state.corrections.fit import Fit
from compressm.families.matrix_state.corrections.output import OutputFit
from compressm.families.matrix_state.corrections.refit import Refit

CORRECTIONS: dict[str, type[Correction]] = {"refit": Refit, "output": OutputFit, "fit": Fit}

__all__ = ["CORRECTIONS", "Correction"]
