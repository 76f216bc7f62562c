"""Data sets as sequences: `load(DataConfig(name="digits"))`, then `loaders(splits, ...)`."""

from compressm.data.config import DataConfig, DataSplits, Task, load
from compressm.data.loaders import BatchOrder, Loaders, SequenceLoader, loaders
from compressm.data.registry import NoOptions, available, known_options, register
from compressm.data.tensors import SequenceDataset

__all__ = [
    "BatchOrder",
    "DataConfig",
    "DataSplits",
    "Loaders",
    "NoOptions",
    "SequenceDataset",
    "SequenceLoader",
    "Task",
    "available",
    "known_options",
    "load",
    "loaders",
    "register",
]
