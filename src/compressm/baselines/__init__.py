"""What compression in training is compared with, one file each."""

from compressm.baselines.base import BASELINES, Baseline, Loss, register_baseline
from compressm.baselines.scratch import Scratch

__all__ = ["BASELINES", "Baseline", "Loss", "Scratch", "register_baseline"]
