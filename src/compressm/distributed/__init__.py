"""Processes that train one model together, and the wrappers by which they do."""
