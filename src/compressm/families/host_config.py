"""What a model around the layers says about their state dimension, such as `config.state_size`.

One entry of one configuration speaks for all layers below the module that has it, so it can be
right only while they agree; then a checkpoint can be loaded without us.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from compressm.edits import Edit
from compressm.families.base import Site


@dataclass(frozen=True, eq=False)
class ConfigEntry:
    """One entry of a configuration that says how many states layers have.

    Attributes:
        path: of the module that has the configuration ("" is the model itself).
        owner: that module.
        key: what the entry is called.
        sites: names of the layers it speaks for.
    """

    path: str
    owner: nn.Module
    key: str
    sites: tuple[str, ...]

    @property
    def name(self) -> str:
        """Dotted name below the model."""
        return f"{self.path}.config.{self.key}" if self.path else f"config.{self.key}"

    def edit(self, state_dims: Mapping[str, int]) -> Edit | None:
        """What brings the entry in step with its layers; None where they differ."""
        dims = {state_dims[site] for site in self.sites}
        if len(dims) > 1:
            return None
        return Edit(module=self.owner, attributes={f"config.{self.key}": dims.pop()})


def config_entries(model: nn.Module, sites: Mapping[str, Site]) -> list[ConfigEntry]:
    """The entries of all configurations around the layers, outermost first, each once."""
    modules = dict(model.named_modules())
    found: dict[tuple[int, str], tuple[str, str, list[str]]] = {}
    for name, site in sites.items():
        outermost: dict[int, str] = {}
        for path in _ancestors(name):
            config = getattr(modules.get(path), "config", None)
            key = _key(config, site.adapter.config_keys)
            if key is None:
                continue
            # Two models inside this one can share the object; each has an entry of its own.
            path = outermost.setdefault(id(config), path)
            speaks_for = found.setdefault((id(config), path), (path, key, []))[2]
            if name not in speaks_for:
                speaks_for.append(name)
    entries = [
        ConfigEntry(path, modules[path], key, tuple(names)) for path, key, names in found.values()
    ]
    return sorted(entries, key=lambda entry: entry.path.count(".") + bool(entry.path))


def uniform_groups(model: nn.Module, sites: Mapping[str, Site]) -> list[tuple[str, ...]]:
    """Layers that must agree if every configuration is to be right; else those of one family."""
    groups = [entry.sites for entry in config_entries(model, sites)]
    alone: dict[str, list[str]] = {}
    for name, site in sites.items():
        if not any(name in group for group in groups):
            alone.setdefault(site.adapter.family, []).append(name)
    return groups + [tuple(names) for names in alone.values()]


def sized_attributes(model: nn.Module, sites: Mapping[str, Site]) -> list[str]:
    """Dotted names below the model of all plain attributes that a cut can change."""
    names = [entry.name for entry in config_entries(model, sites)]
    for path, site in sites.items():
        attributes = site.adapter.attributes(site.module, site.state_dim)
        names += [
            f"{path}.{name}" if path else name
            for name, value in attributes.items()
            if isinstance(value, int)
        ]
    return names


def _ancestors(name: str) -> list[str]:
    """For "a.b.c": "", "a", "a.b" and the name itself."""
    parts = name.split(".") if name else []
    return [".".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _key(config: Any, keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if hasattr(config, key)), None)
