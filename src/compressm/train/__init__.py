"""Training runs: `train` and `resume` are in `compressm.train.run`, which needs Lightning."""

from compressm.train.build import build_model, loss_of
from compressm.train.config import (
    CompressConfig,
    OptimConfig,
    RunConfig,
    TrainerConfig,
)
from compressm.train.folder import RunFolder
from compressm.train.model_files import (
    ModelCard,
    find_model_file,
    load_run_model,
    read_card,
    save_model,
)
from compressm.train.models import (
    BlocksConfig,
    Mamba2Config,
    MambaConfig,
    ModelConfig,
    register_model,
)
from compressm.train.policies import build_policy
from compressm.train.recipes import bundled_recipes, load_recipe

__all__ = [
    "BlocksConfig",
    "CompressConfig",
    "Mamba2Config",
    "MambaConfig",
    "ModelCard",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "RunFolder",
    "TrainerConfig",
    "build_model",
    "build_policy",
    "bundled_recipes",
    "find_model_file",
    "load_recipe",
    "load_run_model",
    "loss_of",
    "read_card",
    "register_model",
    "save_model",
]
