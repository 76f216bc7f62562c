"""What compression in training is compared with."""

from compressm.baselines.scratch import scratch_config

__all__ = ["scratch_config"]
