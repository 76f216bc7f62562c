"""Fast recurrences, time-invariant and selective."""

from compressm.ops.chunked import scan_states
from compressm.ops.conv import causal_conv1d
from compressm.ops.cost import BACKENDS, Plan, choose, plans
from compressm.ops.gemm import linear
from compressm.ops.inner import mamba_inner
from compressm.ops.lti import diagonal_ssm
from compressm.ops.selective import selective_scan
from compressm.ops.ssd import ssd
from compressm.ops.streaming import selective_state_update

__all__ = [
    "BACKENDS",
    "Plan",
    "causal_conv1d",
    "choose",
    "diagonal_ssm",
    "linear",
    "mamba_inner",
    "plans",
    "scan_states",
    "selective_scan",
    "selective_state_update",
    "ssd",
]
