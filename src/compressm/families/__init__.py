"""One file for each layer family; importing this package registers them all."""

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
from compressm.families.lti import linoss as linoss
from compressm.families.lti import lru as lru
from compressm.families.lti import s4d as s4d
from compressm.families.lti import s5 as s5
from compressm.families.matrix_state import gated_delta_net as gated_delta_net
from compressm.families.matrix_state import mamba1 as mamba1
from compressm.families.matrix_state import mamba2 as mamba2
from compressm.families.matrix_state import own_layers as own_layers
from compressm.families.matrix_state.fla import attention as attention
from compressm.families.matrix_state.fla import delta as delta

__all__ = [
    "Adapter",
    "Draft",
    "Layout",
    "Measurement",
    "Observer",
    "Site",
    "StateAxis",
    "Which",
    "adapter_for",
    "check_method",
    "find_sites",
    "register_adapter",
    "registered",
    "sites_in",
]
