"""What compression in training is compared with, one file each."""

from compressm.baselines.base import (
    BASELINES,
    TASK,
    Baseline,
    Cost,
    FullModel,
    Loss,
    Objective,
    register_baseline,
)
from compressm.baselines.distillation import Distillation
from compressm.baselines.hankel_norm import HankelNuclearNorm
from compressm.baselines.post_training import PostTraining
from compressm.baselines.published import Published
from compressm.baselines.scratch import Scratch

__all__ = [
    "BASELINES",
    "TASK",
    "Baseline",
    "Cost",
    "Distillation",
    "FullModel",
    "HankelNuclearNorm",
    "Loss",
    "Objective",
    "PostTraining",
    "Published",
    "Scratch",
    "register_baseline",
]
