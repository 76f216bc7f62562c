"""Data sets as sequences: `load(DataConfig(name="digits"))`, then `loaders(splits, ...)`.

Images are sequences of pixels in row order, float32, by default standardised per channel with
the constants of the training images at full resolution (they stand in each file of
`sets/`), so a saved model needs no statistics of its own. Texts are tokens. Validation is cut
from the training part with a seed, never from the test part.
"""

from compressm.data.config import DataConfig
from compressm.data.known import NoOptions, available, known_options
from compressm.data.loaders import BatchOrder, Loaders, SequenceLoader, loaders
from compressm.data.registry import load, register
from compressm.data.task import UNLABELLED, DataSplits, Task
from compressm.data.tensors import SequenceDataset

__all__ = [
    "UNLABELLED",
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
