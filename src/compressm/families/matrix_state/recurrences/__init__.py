"""Recurrences of matrix-valued states: what is true of them whoever's layer they are in."""

from compressm.families.matrix_state.recurrences.base import Recurrence
from compressm.families.matrix_state.recurrences.channel_decay import ChannelDecay
from compressm.families.matrix_state.recurrences.delta_rule import DeltaRule
from compressm.families.matrix_state.recurrences.head_decay import HeadDecay
from compressm.families.matrix_state.recurrences.key_decay import KeyDecay

__all__ = ["ChannelDecay", "DeltaRule", "HeadDecay", "KeyDecay", "Recurrence"]
