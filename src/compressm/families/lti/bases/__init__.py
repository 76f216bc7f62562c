"""In which coordinates a linear layer is reduced, by name; one file each."""

from compressm.families.lti.bases.balanced import Balanced
from compressm.families.lti.bases.base import Basis
from compressm.families.lti.bases.modes import Modes
from compressm.families.lti.bases.scores import ByScore
from compressm.numerics.lti import modal_scores

BASES: dict[str, Basis] = {
    "balanced": Balanced(),
    "modes": Modes(),
    "last": ByScore(modal_scores.peak_scores, "existing modes, H-infinity norm of each"),
    "aire": ByScore(modal_scores.energy_scores, "existing modes, H2 norm of each"),
    "magnitude": ByScore(
        modal_scores.magnitude_scores, "existing modes, size of B and C", endless=False
    ),
}

__all__ = ["BASES", "Basis"]
