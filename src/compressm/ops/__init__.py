"""Fast recurrences, time-invariant and selective."""

from compressm.ops._matrix_op import normalised
from compressm.ops._operator import plain_call
from compressm.ops.chunked import scan_states
from compressm.ops.conv import causal_conv1d
from compressm.ops.cost import BACKENDS, Plan, choose, plans
from compressm.ops.gemm import linear
from compressm.ops.inner import mamba_inner
from compressm.ops.lti import diagonal_ssm
from compressm.ops.matrix_state import (
    gated_delta_rule,
    gated_linear_attention,
    matrix_state_step,
)
from compressm.ops.mix import narrow_mix, suits_narrow_mix
from compressm.ops.mlstm import mlstm
from compressm.ops.norm import rms_norm
from compressm.ops.selective import selective_scan
from compressm.ops.ssd import ssd
from compressm.ops.streaming import selective_state_update
from compressm.ops.swiglu import swiglu

__all__ = [
    "BACKENDS",
    "Plan",
    "causal_conv1d",
    "choose",
    "diagonal_ssm",
    "gated_delta_rule",
    "gated_linear_attention",
    "linear",
    "mamba_inner",
    "matrix_state_step",
    "mlstm",
    "narrow_mix",
    "normalised",
    "plain_call",
    "plans",
    "rms_norm",
    "scan_states",
    "selective_scan",
    "selective_state_update",
    "ssd",
    "suits_narrow_mix",
    "swiglu",
]
