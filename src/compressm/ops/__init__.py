"""Fast linear time-invariant recurrences."""

from compressm.ops.recurrence import diagonal_ssm, powers

__all__ = ["diagonal_ssm", "powers"]
