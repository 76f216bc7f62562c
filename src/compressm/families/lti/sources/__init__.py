"""Where the two Gramians of a linear layer come from, by name; one file each."""

from compressm.families.lti.sources.base import Source
from compressm.families.lti.sources.empirical import Empirical
from compressm.families.lti.sources.finite import Finite
from compressm.families.lti.sources.gradient import Gradient
from compressm.families.lti.sources.white import White

CONTROLLABILITY: dict[str, Source] = {
    "infinite": White(),
    "finite": Finite(),
    "empirical": Empirical(),
}
OBSERVABILITY: dict[str, Source] = {
    "infinite": White(),
    "finite": Finite(),
    "gradient": Gradient(),
}

__all__ = ["CONTROLLABILITY", "OBSERVABILITY", "Source"]
