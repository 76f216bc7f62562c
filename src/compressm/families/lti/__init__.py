"""Linear time-invariant layers: measured by their Gramians, reduced by balancing or selection."""
