"""Linear time-invariant systems, their Gramians, and their reduction."""
