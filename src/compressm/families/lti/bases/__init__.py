"""In which coordinates a linear layer is reduced, by name; one file each."""

from compressm.families.lti.bases.balanced import Balanced
from compressm.families.lti.bases.base import Basis
from compressm.families.lti.bases.modes import Modes

BASES: dict[str, Basis] = {"balanced": Balanced(), "modes": Modes()}

__all__ = ["BASES", "Basis"]
