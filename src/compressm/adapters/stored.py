"""A layer as edits would leave it, to be read, without changing it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from compressm.edits import Edit


def with_values(module: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """A copy of the layer, its own tensors shared, that has the new values at their dtypes."""
    clones: dict[str, nn.Module] = {"": _shallow(module)}

    def holder(path: str) -> nn.Module:
        if path not in clones:
            above, _, key = path.rpartition(".")
            clones[path] = _shallow(holder(above).get_submodule(key))
            holder(above).register_module(key, clones[path])
        return clones[path]

    for edit in edits:
        for name, old, value in zip(edit.names, edit.olds, edit.values, strict=True):
            path, _, key = name.rpartition(".")
            new = nn.Parameter(value.to(old.dtype), requires_grad=False)
            holder(path).register_parameter(key, new)
    return clones[""]


def _shallow(module: nn.Module) -> nn.Module:
    clone = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        clone.__dict__[name] = dict(clone.__dict__[name])
    return clone
