"""One file for each layer family; importing this package registers them all."""

from compressm.adapters import lru as lru
from compressm.adapters import mamba1 as mamba1
from compressm.adapters import mamba2 as mamba2
from compressm.adapters.base import (
    Adapter,
    Draft,
    Measurement,
    Observer,
    Select,
    Site,
    adapter_for,
    check_method,
    find_sites,
    register_adapter,
    registered,
    sites_in,
)
from compressm.adapters.layout import Layout, StateAxis

__all__ = [
    "Adapter",
    "Draft",
    "Layout",
    "Measurement",
    "Observer",
    "Select",
    "Site",
    "StateAxis",
    "adapter_for",
    "check_method",
    "find_sites",
    "register_adapter",
    "registered",
    "sites_in",
]
