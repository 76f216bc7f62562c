"""The only place that changes models and optimizers."""

from compressm.writeback.averages import Averages
from compressm.writeback.commit import (
    TRANSPORTS,
    commit_,
    prepared,
    require_owned,
)
from compressm.writeback.elsewhere import Elsewhere, require_unshared
from compressm.writeback.finite import require_finite
from compressm.writeback.live_modules import LiveModules
from compressm.writeback.materialise import materialise_, on_meta
from compressm.writeback.ownership import (
    as_optimizers,
    in_backward,
    require_held,
)
from compressm.writeback.resize import Replacement, adopt_, replace_
from compressm.writeback.shallow_snapshot import SavedAttributes, ShallowSnapshot
from compressm.writeback.sizes import SizeAttributes, set_attributes_
from compressm.writeback.snapshot import Snapshot
from compressm.writeback.undisturbed import undisturbed

__all__ = [
    "TRANSPORTS",
    "Averages",
    "Elsewhere",
    "LiveModules",
    "Replacement",
    "SavedAttributes",
    "ShallowSnapshot",
    "SizeAttributes",
    "Snapshot",
    "adopt_",
    "as_optimizers",
    "commit_",
    "in_backward",
    "materialise_",
    "on_meta",
    "prepared",
    "replace_",
    "require_finite",
    "require_held",
    "require_owned",
    "require_unshared",
    "set_attributes_",
    "undisturbed",
]
