"""Linear layers as systems that gradients can follow, for penalties on what a layer does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from compressm.errors import InputError
from compressm.families.base import Site
from compressm.numerics import StateSpace


@runtime_checkable
class Traced(Protocol):
    """A linear family that makes the system of a layer from any values of its parameters."""

    def system(self, module: nn.Module, p: Mapping[str, Tensor]) -> StateSpace:
        """What `read` gives, from values in float64 on the CPU, without breaking their graph.

        Args:
            module: the layer, for what is no parameter.
            p: all its parameters by name.
        """


def doubles(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a layer as `Traced.system` takes them, without a graph."""
    return {name: value.detach().cpu().double() for name, value in module.named_parameters()}


def traced_system(site: Site) -> StateSpace:
    """The system of a live layer; gradients flow from it to the layer's parameters.

    Raises:
        InputError: no system that gradients can follow is known of such a layer.
    """
    if not isinstance(site.adapter, Traced):
        raise InputError(
            f"layer {site.name!r}: {site.adapter.family} layers have no Hankel singular values "
            "that gradients can follow; linear time-invariant ones that decay (LRU, S5, S4D, DSS) "
            "have"
        )
    live = {name: value.cpu().double() for name, value in site.module.named_parameters()}
    return site.adapter.system(site.module, live)
