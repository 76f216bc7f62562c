"""What a model around the layers says about their state dimension, such as `config.state_size`.

One entry of one configuration speaks for all layers below the module that has it, so it can be
right only while they agree; then a checkpoint can be loaded without us. Where a configuration has
no entry for it at all, a note in it says why, and goes into the folder that is saved.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compressm.edits import Edit
from compressm.families.base import Site
from compressm.families.layout import Size, sized

# In a configuration: why classes that do not know us cannot load the model.
NOT_STOCK = "compressm_not_stock"


@dataclass(frozen=True, eq=False)
class ConfigEntry:
    """One entry of a configuration that says how many states layers have.

    Attributes:
        path: of the module that has the configuration ("" is the model itself).
        owner: that module.
        key: what the entry is called.
        says: what it has to be for so many states, by the layers it speaks for.
    """

    path: str
    owner: nn.Module
    key: str
    says: Mapping[str, Size]

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the layers it speaks for."""
        return tuple(self.says)

    @property
    def name(self) -> str:
        """Dotted name below the model."""
        return f"{self.path}.config.{self.key}" if self.path else f"config.{self.key}"

    def edit(self, state_dims: Mapping[str, int]) -> Edit | None:
        """What brings the entry in step with its layers; None where they differ."""
        values = {sized(size, state_dims[site]) for site, size in self.says.items()}
        if len(values) > 1:
            return None
        return Edit(module=self.owner, attributes={f"config.{self.key}": values.pop()})


def config_entries(model: nn.Module, sites: Mapping[str, Site]) -> list[ConfigEntry]:
    """The entries of all configurations around the layers, outermost first, each once."""
    modules = dict(model.named_modules())
    found: dict[tuple[int, str, str], dict[str, Size]] = {}
    for name, site in sites.items():
        outermost: dict[int, str] = {}
        for path in _ancestors(name):
            config = getattr(modules.get(path), "config", None)
            for key, size in _said(config, site).items():
                # Two models inside this one can share the object; each has an entry of its own.
                path = outermost.setdefault(id(config), path)
                found.setdefault((id(config), path, key), {})[name] = size
    entries = [
        ConfigEntry(path, modules[path], key, says) for (_, path, key), says in found.items()
    ]
    return sorted(entries, key=lambda entry: entry.path.count(".") + bool(entry.path))


def stock_notes(
    model: nn.Module, sites: Mapping[str, Site], state_dims: Mapping[str, int]
) -> list[Edit]:
    """What configurations say of layers whose sizes they have no place for; None where all fit.

    Args:
        model: that has the layers.
        sites: the layers.
        state_dims: states of each, which may be what it is about to have.
    """
    modules = dict(model.named_modules())
    owners: dict[int, tuple[nn.Module, list[str]]] = {}
    for name, site in sites.items():
        layout = site.adapter.layout(site.module)
        if layout is None or layout.unstored is None:
            continue
        around = (modules[path] for path in _ancestors(name))
        owner = next((m for m in around if _is_saved(getattr(m, "config", None))), None)
        if owner is not None:
            notes = owners.setdefault(id(owner.config), (owner, []))[1]
            notes += [note for note in [layout.unstored(state_dims[name])] if note is not None]
    return [
        Edit(module=owner, attributes={f"config.{NOT_STOCK}": notes[0] if notes else None})
        for owner, notes in owners.values()
    ]


def uniform_groups(model: nn.Module, sites: Mapping[str, Site]) -> list[tuple[str, ...]]:
    """Layers that must agree if every configuration is to be right; else those of one family."""
    groups = list(dict.fromkeys(entry.sites for entry in config_entries(model, sites)))
    alone: dict[str, list[str]] = {}
    for name, site in sites.items():
        if not any(name in group for group in groups):
            alone.setdefault(site.adapter.family, []).append(name)
    return groups + [tuple(names) for names in alone.values()]


def sized_attributes(model: nn.Module, sites: Mapping[str, Site]) -> list[str]:
    """Dotted names below the model of all plain attributes that a cut can change, but classes."""
    names = [entry.name for entry in config_entries(model, sites)]
    names += [
        f"{path}.{name}" if path else name
        for note in stock_notes(
            model, sites, {name: site.state_dim for name, site in sites.items()}
        )
        for path, module in model.named_modules()
        if module is note.module
        for name in note.attributes
    ]
    for path, site in sites.items():
        attributes = site.adapter.attributes(site.module, site.state_dim)
        names += [
            f"{path}.{name}" if path else name
            for name, value in attributes.items()
            if not isinstance(value, Tensor) or not _is_buffer(site.module, name)
        ]
    return names


def _is_saved(config: Any) -> bool:
    """Whether it is a configuration that goes into a folder with whatever was written into it."""
    return hasattr(config, "save_pretrained")


def _is_buffer(module: nn.Module, name: str) -> bool:
    return any(name == buffer for buffer, _ in module.named_buffers())


def _ancestors(name: str) -> list[str]:
    """For "a.b.c": "", "a", "a.b" and the name itself."""
    parts = name.split(".") if name else []
    return [".".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _said(config: Any, site: Site) -> Mapping[str, Size]:
    """What a configuration says about a layer; nothing where it has not all that is needed."""
    layout = site.adapter.layout(site.module)
    if layout is not None and layout.config:
        return layout.config if all(hasattr(config, key) for key in layout.config) else {}
    keys = (key for key in site.adapter.config_keys if hasattr(config, key))
    return dict.fromkeys(itertools.islice(keys, 1), 1)
