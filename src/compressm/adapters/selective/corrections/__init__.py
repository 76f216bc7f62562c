"""Second passes over the data that make up for the states that go, by name of `Method.correct`."""

from compressm.adapters.selective.corrections.base import Correction
from compressm.adapters.selective.corrections.fit import Fit
from compressm.adapters.selective.corrections.output import OutputFit
from compressm.adapters.selective.corrections.refit import Refit

CORRECTIONS: dict[str, type[Correction]] = {"refit": Refit, "output": OutputFit, "fit": Fit}

__all__ = ["CORRECTIONS", "Correction"]
