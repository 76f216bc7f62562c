"""The only place that changes models and optimizers."""

from compressm.writeback.carry import Averages
from compressm.writeback.commit import (
    TRANSPORTS,
    commit_,
    prepared,
    require_owned,
)
from compressm.writeback.finite import require_finite
from compressm.writeback.materialise import materialise_, on_meta
from compressm.writeback.ownership import (
    as_optimizers,
    in_backward,
    require_followed,
    require_held,
)
from compressm.writeback.resize import Replacement, adopt_, replace_
from compressm.writeback.settings import Settings, set_attributes_
from compressm.writeback.snapshot import Snapshot
from compressm.writeback.standing import Attributes, Standing
from compressm.writeback.surroundings import Surroundings
from compressm.writeback.undisturbed import undisturbed

__all__ = [
    "TRANSPORTS",
    "Attributes",
    "Averages",
    "Replacement",
    "Settings",
    "Snapshot",
    "Standing",
    "Surroundings",
    "adopt_",
    "as_optimizers",
    "commit_",
    "in_backward",
    "materialise_",
    "on_meta",
    "prepared",
    "replace_",
    "require_finite",
    "require_followed",
    "require_held",
    "require_owned",
    "set_attributes_",
    "undisturbed",
]
