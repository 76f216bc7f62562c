"""Layers whose state is a matrix for each head: linear attention and the delta rule."""

from compressm.nn.matrix_state.attention import GatedLinearAttention, LinearAttention, Retention
from compressm.nn.matrix_state.base import MatrixStateLayer
from compressm.nn.matrix_state.delta import DeltaNet, GatedDeltaNet, KimiDeltaAttention

__all__ = [
    "DeltaNet",
    "GatedDeltaNet",
    "GatedLinearAttention",
    "KimiDeltaAttention",
    "LinearAttention",
    "MatrixStateLayer",
    "Retention",
]
