"""Layers and models whose state dimension can shrink."""

from compressm.nn.lru import LRU

__all__ = ["LRU"]
