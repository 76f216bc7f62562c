"""Kinds of runs, one file each."""

from compressm.experiments.kinds import cut, timing, training, transport
from compressm.experiments.kinds.base import KINDS, Kind, Place, register_kind

__all__ = ["KINDS", "Kind", "Place", "cut", "register_kind", "timing", "training", "transport"]
