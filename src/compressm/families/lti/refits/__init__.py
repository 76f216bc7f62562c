"""What makes up for the states that go from a linear layer, by name; one file each."""

from compressm.families.lti.refits.base import Refit
from compressm.families.lti.refits.data import DataRefit
from compressm.families.lti.refits.fit import Fit
from compressm.families.lti.refits.h2 import H2Refit
from compressm.families.lti.refits.none import NoRefit

REFITS: dict[str, type[Refit]] = {
    "none": NoRefit,
    "h2": H2Refit,
    "data": DataRefit,
    "fit": Fit,
}

__all__ = ["REFITS", "Refit"]
