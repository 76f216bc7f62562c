"""One file for each layer family; importing this package registers them all.

All that an adapter of one's own needs is here, whichever part of the package it comes from.
"""

from compressm.edits import Edit, Project, Reset, Selection, StateMap
from compressm.families.base import (
    Adapter,
    Draft,
    Measurement,
    Observer,
    Site,
    Which,
    adapter_for,
    check_method,
    find_sites,
    register_adapter,
    registered,
    sites_in,
)
from compressm.families.layout import Layout, StateAxis
from compressm.families.lti import LinearAdapter
from compressm.families.lti import dss as dss
from compressm.families.lti import linoss as linoss
from compressm.families.lti import lru as lru
from compressm.families.lti import s4d as s4d
from compressm.families.lti import s5 as s5
from compressm.families.lti.writing import (
    kept_length,
    kept_states,
    read_states,
    unit_inputs,
    written,
)
from compressm.families.matrix_state import Choice, MatrixStateAdapter, MatrixStateLayer, NewValue
from compressm.families.matrix_state import gated_delta_net as gated_delta_net
from compressm.families.matrix_state import kimi_delta as kimi_delta
from compressm.families.matrix_state import lightning as lightning
from compressm.families.matrix_state import mamba1 as mamba1
from compressm.families.matrix_state import mamba2 as mamba2
from compressm.families.matrix_state import mamba3 as mamba3
from compressm.families.matrix_state import own_layers as own_layers
from compressm.families.matrix_state import xlstm as xlstm
from compressm.families.matrix_state.fla import attention as attention
from compressm.families.matrix_state.fla import delta as delta
from compressm.families.matrix_state.fla import retention as retention
from compressm.families.matrix_state.recurrences import (
    ChannelDecay,
    DeltaRule,
    HeadDecay,
    KeyDecay,
)
from compressm.families.structure import Tensors
from compressm.numerics import Reduction, StateSpace, discretise, undiscretise
from compressm.numerics.matrix_state.signals import Signals
from compressm.spectrum import StateCost

__all__ = [
    "Adapter",
    "ChannelDecay",
    "Choice",
    "DeltaRule",
    "Draft",
    "Edit",
    "HeadDecay",
    "KeyDecay",
    "Layout",
    "LinearAdapter",
    "MatrixStateAdapter",
    "MatrixStateLayer",
    "Measurement",
    "NewValue",
    "Observer",
    "Project",
    "Reduction",
    "Reset",
    "Selection",
    "Signals",
    "Site",
    "StateAxis",
    "StateCost",
    "StateMap",
    "StateSpace",
    "Tensors",
    "Which",
    "adapter_for",
    "check_method",
    "discretise",
    "find_sites",
    "kept_length",
    "kept_states",
    "read_states",
    "register_adapter",
    "registered",
    "sites_in",
    "undiscretise",
    "unit_inputs",
    "written",
]
