"""Layers take the size of the weights that `load_state_dict` brings, wherever it is called.

One mechanism for all: the layers of `compressm.nn` are watched from their making on, those of
everybody else, with the modules around them, from the moment that a `Compressor` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from compressm.checkpoints.resize_layers import resize_layers_, write_sizes_, zeros_for
from compressm.checkpoints.shapes import shapes_wanted
from compressm.edits import holder_of
from compressm.families import sites_in
from compressm.nn.loading import on_load, watch
from compressm.writeback import LiveModules, adopt_


def watch_loads(model: nn.Module) -> None:
    """From now on the layers take other sizes, also where `model` is only a part of what is loaded.

    The outermost watched module decides for all layers below it, before any of them is changed.
    """
    paths = {""}
    for name in sites_in(model):
        parts = name.split(".")
        paths |= {".".join(parts[:depth]) for depth in range(len(parts) + 1)}
    for path in paths:
        watch(model.get_submodule(path))


class _Resizing:
    """The one watcher.

    `load_state_dict(assign=True)` puts other parameters in the place of those that were made for
    it, so optimizers are told afterwards.
    """

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[nn.Module, dict[tuple[str, str], nn.Parameter]]
        self._made = WeakKeyDictionary()

    def before(
        self, module: nn.Module, state: Mapping[str, Any], prefix: str, *, assign: bool
    ) -> None:
        self._made.pop(module, None)
        sites = sites_in(module)
        shapes = shapes_wanted(sites, state, prefix)
        if not shapes:
            return
        resize_layers_(
            module, sites, {name: zeros_for(sites[name], found) for name, found in shapes.items()}
        )
        if assign:
            self._made[module] = {
                (name, parameter): sites[name].module.get_parameter(parameter)
                for name, found in shapes.items()
                for parameter in found
            }

    def after(self, module: nn.Module) -> None:
        made = self._made.pop(module, None)
        if made is None:
            return
        sites, around = sites_in(module), LiveModules([module])
        resized = {name: sites[name] for name, _ in made}
        pairs = []
        for (name, parameter), old in made.items():
            holder, key = holder_of(sites[name].module, parameter)
            pairs.append((old, holder._parameters[key]))
        adopt_([site.module for site in resized.values()], pairs, around)
        write_sizes_(resized.values(), around)


on_load(_Resizing())
