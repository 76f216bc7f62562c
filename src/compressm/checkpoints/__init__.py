"""Weights of one size into models of another."""

from compressm.checkpoints.load import load_compressed
from compressm.checkpoints.resize import resize_
from compressm.checkpoints.resize_on_load import watch_loads

__all__ = ["load_compressed", "resize_", "watch_loads"]
