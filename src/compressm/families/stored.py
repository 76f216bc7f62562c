"""A layer as edits would leave it, to be read, without changing it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from compressm.edits import Edit


def with_values(module: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """A copy of the layer, its own tensors shared, that has the new values at their dtypes."""
    clones = {"": _shallow(module)}
    for edit in edits:
        for name, old, value in zip(edit.names, edit.olds, edit.values, strict=True):
            path, _, key = name.rpartition(".")
            holder = _cloned(clones, path)
            holder.register_parameter(key, nn.Parameter(value.to(old.dtype), requires_grad=False))
    return clones[""]


def _cloned(clones: dict[str, nn.Module], path: str) -> nn.Module:
    """The copy of the module at `path`, made with those above it where there is none yet."""
    if path not in clones:
        above, _, key = path.rpartition(".")
        holder = _cloned(clones, above)
        clones[path] = _shallow(holder.get_submodule(key))
        holder.register_module(key, clones[path])
    return clones[path]


def _shallow(module: nn.Module) -> nn.Module:
    clone = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        clone.__dict__[name] = dict(clone.__dict__[name])
    return clone
