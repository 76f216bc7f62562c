"""Kinds of runs, one file each."""

from compressm.experiments.kinds.base import KINDS, Kind, Workplace, register_kind
from compressm.experiments.kinds.named import build_kind, kind_settings, settings_of

__all__ = [
    "KINDS",
    "Kind",
    "Workplace",
    "build_kind",
    "kind_settings",
    "register_kind",
    "settings_of",
]
