"""What the shapes of arriving weights say about the states of each layer; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from compressm.errors import CheckpointError
from compressm.families import Layout, Site

# Shape of each parameter, by its name in the layer.
Shapes = Mapping[str, torch.Size]


def shapes_wanted(
    sites: Mapping[str, Site], state: Mapping[str, Any], prefix: str = ""
) -> dict[str, Shapes]:
    """The layers that need other shapes for what arrives, and which.

    Args:
        sites: layers by module path.
        state: key -> anything with a `shape`.
        prefix: of the keys of the module in which the paths are.

    Raises:
        CheckpointError: parameters of one layer speak of different sizes, or some are missing.
    """
    found = {}
    for name, site in sites.items():
        if shapes := _of_site(site, f"{prefix}{name}." if name else prefix, state):
            found[name] = shapes
    return found


def shapes_at(site: Site, layout: Layout, wanted: int) -> Shapes:
    """The shapes of a layer's parameters with another number of states."""
    states = site.state_dim
    return {
        name: axis.shape(site.module.get_parameter(name).shape, states, wanted)
        for name, axis in layout.parameters.items()
    }


def _of_site(site: Site, prefix: str, state: Mapping[str, Any]) -> Shapes:
    own = {
        name: parameter.shape
        for name in site.adapter.parameters(site.module)
        if (parameter := _parameter(site, name)) is not None
    }
    arrived = {
        name: torch.Size(state[prefix + name].shape)
        for name in own
        if hasattr(state.get(prefix + name), "shape")
    }
    different = {name: shape for name, shape in arrived.items() if shape != own[name]}
    if not different:
        return {}
    layout = site.adapter.layout(site.module)
    if layout is None:
        # What cannot be a matter of the state dimension is left for the loader to report.
        return {n: shape for n, shape in different.items() if len(shape) == len(own[n])}
    states = site.state_dim
    said = {
        name: axis.states(own[name], states, arrived[name])
        for name, axis in layout.parameters.items()
        if name in arrived
    }
    reference = next((name for name, n in said.items() if n not in (None, states)), None)
    if reference is None:
        return {}
    wanted = said[reference]
    assert wanted is not None
    expected = shapes_at(site, layout, wanted)
    for name, shape in expected.items():
        says = f"{prefix}{reference} says N={wanted}"
        if name not in arrived:
            raise CheckpointError(
                f"{prefix}{name} is missing, but {says} where this layer has N={states}; a layer "
                "changes its size only with all of its state space parameters"
            )
        if arrived[name] != shape:
            width = getattr(site.module, "width", None)
            has = f" and this layer has H={width}" if isinstance(width, int) else ""
            raise CheckpointError(
                f"{prefix}{name} has shape {tuple(arrived[name])}, but {says}{has}, so "
                f"{tuple(shape)} was expected; build the model with the width of the checkpoint"
            )
    return expected


def _parameter(site: Site, name: str) -> torch.nn.Parameter | None:
    try:
        return site.module.get_parameter(name)
    except AttributeError:  # computed from others (weight norm, …): it has no place of its own
        return None
