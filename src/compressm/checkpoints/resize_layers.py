"""A live model takes other shapes: parameters, what says sizes, optimizers, wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.edits import holder_of
from compressm.families import Site, sites_in
from compressm.families.host_config import config_entries, stock_notes
from compressm.writeback import LiveModules, Replacement, SizeAttributes, replace_, require_unshared


def resize_layers_(
    model: nn.Module,
    sites: Mapping[str, Site],
    values: Mapping[str, Mapping[str, Tensor]],
    optimizers: Iterable[Optimizer] = (),
    *,
    anywhere: bool = False,
) -> None:
    """Give layers parameters of other shapes, and let everything around them follow.

    Args:
        model: a module that contains the layers; what is around it is found.
        sites: the layers by name.
        values: of each of them, the new values by parameter, whole.
        optimizers: that follow besides all that are alive.
        anywhere: see `Replacement`.

    Raises:
        DistributedError: see `replace_`; nothing has been changed.
        InputError: a module that neither contains the layers nor is around them shares a parameter.
    """
    around = LiveModules([model])
    replacements = [
        Replacement(*holder_of(sites[name].module, parameter), value, anywhere)
        for name, layer in values.items()
        for parameter, value in layer.items()
    ]
    roots = {id(root): root for name in values for root in around.roots(sites[name].module)}
    named = [
        (f"{name}.{parameter}" if name else parameter, sites[name].module.get_parameter(parameter))
        for name, layer in values.items()
        for parameter in layer
    ]
    require_unshared(named, nn.ModuleList(roots.values()))
    replace_(replacements, around, optimizers)
    write_sizes_([sites[name] for name in values], around)


def zeros_for(site: Site, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Zeros of these shapes, to be loaded into."""
    return {
        name: torch.zeros(shape, device="cpu", dtype=site.module.get_parameter(name).dtype)
        for name, shape in shapes.items()
    }


def write_sizes_(sites: Iterable[Site], around: LiveModules) -> None:
    """Let layers, and configurations around them, say the sizes that their parameters have."""
    settings = SizeAttributes()
    roots: dict[int, nn.Module] = {}
    resized = {id(site.module) for site in sites}
    for site in sites:
        settings.add(site.module, site.adapter.attributes(site.module, site.state_dim))
        roots |= {id(root): root for root in around.roots(site.module)}
    settings.put_()
    for root in roots.values():
        inside = sites_in(root)
        dims = {name: site.state_dim for name, site in inside.items()}
        settings = SizeAttributes()
        for entry in config_entries(root, inside):
            edit = entry.edit(dims)
            if edit and any(id(inside[name].module) in resized for name in entry.sites):
                settings.add(edit.module, edit.attributes)
        for note in stock_notes(root, inside, dims):
            settings.add(note.module, note.attributes)
        settings.put_()
