"""One file for each kind of model; importing this package registers them all."""

from compressm.train.models.base import KINDS, ModelConfig, kind_of, register_model
from compressm.train.models.blocks import BlocksConfig
from compressm.train.models.mamba import MambaConfig
from compressm.train.models.mamba2 import Mamba2Config
from compressm.train.models.qwen3_next import Qwen3NextConfig

__all__ = [
    "KINDS",
    "BlocksConfig",
    "Mamba2Config",
    "MambaConfig",
    "ModelConfig",
    "Qwen3NextConfig",
    "kind_of",
    "register_model",
]
