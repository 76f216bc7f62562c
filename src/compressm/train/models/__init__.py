"""One file for each kind of model; importing this package registers them all."""

from compressm.train.models.base import KINDS, ModelConfig, kind_of, register_model
from compressm.train.models.blocks import BlocksConfig

__all__ = [
    "KINDS",
    "BlocksConfig",
    "ModelConfig",
    "kind_of",
    "register_model",
]
