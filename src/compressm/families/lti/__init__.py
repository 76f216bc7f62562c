"""Linear time-invariant layers: measured by their Gramians, reduced by balancing or selection."""

from compressm.families.lti.adapter import LinearAdapter
from compressm.families.lti.methods import DEFAULT_METHOD, METHODS, LinearMethod

__all__ = ["DEFAULT_METHOD", "METHODS", "LinearAdapter", "LinearMethod"]
