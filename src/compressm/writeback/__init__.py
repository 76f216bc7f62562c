"""The only place that changes models and optimizers."""

from compressm.writeback.carry import Averages, uncompiled
from compressm.writeback.commit import (
    TRANSPORTS,
    commit_,
    prepared,
    require_owned,
    resize_,
    set_attributes_,
)
from compressm.writeback.ownership import as_optimizers, require_followed, require_held
from compressm.writeback.snapshot import Snapshot
from compressm.writeback.undisturbed import undisturbed

__all__ = [
    "TRANSPORTS",
    "Averages",
    "Snapshot",
    "as_optimizers",
    "commit_",
    "prepared",
    "require_followed",
    "require_held",
    "require_owned",
    "resize_",
    "set_attributes_",
    "uncompiled",
    "undisturbed",
]
