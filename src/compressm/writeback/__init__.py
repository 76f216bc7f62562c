"""The only place that changes models and optimizers."""

from compressm.writeback.commit import commit_, resize_
from compressm.writeback.moments import FIRST_MOMENTS, SECOND_MOMENTS, as_optimizers

__all__ = ["FIRST_MOMENTS", "SECOND_MOMENTS", "as_optimizers", "commit_", "resize_"]
