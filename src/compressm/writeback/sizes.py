"""What modules, and configurations around them, say about sizes.

A configuration is often the same object in several models (teacher and student), so it is never
written to: the model whose size changes gets a configuration of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from compressm.edits import holder_of
from compressm.storage.bits import same_bits
from compressm.writeback.live_modules import LiveModules

# Configurations in configurations (text in multimodal, …) are not deeper than this.
_DEPTH = 4


class SizeAttributes:
    """New values of attributes, made ready beside the live model; `put_` sets them.

    All modules of one model that hold a configuration get the same copy of it, and so do those
    that hold what is inside it or what it is inside of.
    """

    def __init__(self) -> None:
        self._tensors: list[tuple[nn.Module, str, Tensor]] = []
        self._configs: list[tuple[nn.Module, str, Any]] = []
        self._values: list[tuple[Any, str, Any]] = []
        self._copies: dict[int, dict[int, Any]] = {}  # by the module that bounds the model
        self._around: LiveModules | None = None

    def add(self, module: nn.Module, attributes: Mapping[str, Any]) -> None:
        """Values by dotted name below `module`; they exist already.

        A tensor is the new value of a buffer, whose dtype and device stay (where it has none yet,
        on the meta device, it goes where the module's parameters are). A value that is there
        already is not set again.
        """
        for name, value in attributes.items():
            holder, key = holder_of(module, name)
            # Of a configuration, an entry that it has not yet is one of None.
            old = getattr(holder, key, *([] if isinstance(holder, nn.Module) else [None]))
            if isinstance(value, Tensor) and old is None:  # a table that was forgotten comes back
                self._values.append((holder, key, value.clone()))
            elif isinstance(value, Tensor):
                if (new := _buffer(module, old, value)) is not old:
                    self._tensors.append((holder, key, new))
            elif isinstance(holder, nn.Module):
                if old != value:
                    self._values.append((holder, key, value))
            elif old != value:
                self._values.append((self._own(module, name), key, value))

    def put_(self) -> None:
        """Set all values."""
        for module, key, value in self._tensors:
            if key in module._buffers:
                module._buffers[key] = value
            else:  # a tensor that is a plain attribute
                setattr(module, key, value)
        for holder, key, value in [*self._configs, *self._values]:
            setattr(holder, key, value)

    def _own(self, module: nn.Module, name: str) -> Any:
        """A copy of the object in which the last part of `name` is set, for this model alone."""
        owner, inside = _owner(module, name)
        if self._around is None:
            self._around = LiveModules([owner])
        scope = _scope(owner, inside, self._around)
        copies = self._copies.setdefault(id(scope), {})
        if id(inside) not in copies:
            for _, _, config in _holders(scope, inside):
                copy.deepcopy(config, copies)
            self._configs += [
                (module, attribute, copies[id(config)])
                for module, attribute, config in _holders(scope, inside)
            ]
        return copies[id(inside)]


def set_attributes_(module: nn.Module, attributes: Mapping[str, Any]) -> None:
    """Set what a module says about its own sizes, by dotted name; see `SizeAttributes`."""
    settings = SizeAttributes()
    settings.add(module, attributes)
    settings.put_()


def held_configurations(root: nn.Module, names: list[str]) -> list[tuple[nn.Module, str, Any]]:
    """(module, attribute, object) for every configuration that writing to `names` would replace."""
    found: list[tuple[nn.Module, str, Any]] = []
    around: LiveModules | None = None
    for name in names:
        if not isinstance(holder_of(root, name)[0], nn.Module):
            owner, inside = _owner(root, name)
            around = around or LiveModules([root])
            found += _holders(_scope(owner, inside, around), inside)
    return found


def _holders(scope: nn.Module, inside: Any) -> list[tuple[nn.Module, str, Any]]:
    """(module, attribute, object) for what modules hold of the configurations around `inside`.

    These are the object itself, those that contain it, and all that is in one of those.
    """
    held = [
        (module, attribute, value)
        for module in scope.modules()
        for attribute, value in vars(module).items()
        if value is inside or _is_config(attribute, value)
    ]
    family = {id(inside)}
    for _, _, config in held:
        parts = {id(part) for part in _parts(config)}
        if id(inside) in parts:
            family |= parts
    return [entry for entry in held if id(entry[2]) in family]


def _scope(owner: nn.Module, config: Any, around: LiveModules) -> nn.Module:
    """The outermost module that is still the same model as `owner`.

    Modules around it that hold the same object belong to it, unless another model of the same kind
    is in there as well.
    """
    scope = owner
    above = around.above(owner)
    chain = {id(owner), *map(id, above)}
    mine = {id(module) for module in owner.modules()} | chain
    for module in above:
        holders = _holders(module, config)
        if not any(m is module for m, _, _ in holders):
            continue
        others = [m for m, _, held in holders if held is config and id(m) not in mine]
        if any(type(m) is type(owner) for m in others):
            break
        scope = module
    return scope


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, Any]:
    """The last module on a dotted path, and the object that has the last part of it."""
    owner: Any = root
    for step in name.split(".")[:-1]:
        below = getattr(owner, step)
        if not isinstance(below, nn.Module):
            break
        owner = below
    return owner, holder_of(root, name)[0]


def _parts(config: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """A configuration and those inside it."""
    yield config
    if depth:
        for name, value in vars(config).items():
            if _is_config(name, value):
                yield from _parts(value, depth - 1)


def _is_config(name: str, value: Any) -> bool:
    """Whether an attribute holds a configuration: by its name, and it has attributes itself."""
    return name.endswith("config") and hasattr(value, "__dict__") and not isinstance(value, type)


def _buffer(module: nn.Module, old: Tensor, value: Tensor) -> Tensor:
    """`value` as the buffer that stands for `old`; `old` itself where that says the same."""
    if old.is_meta and not value.is_meta:
        home = next((p.device for p in module.parameters()), old.device)
        if home != old.device:
            return value.to(device=home, dtype=old.dtype).contiguous().clone()
    new = value.to(old)
    return old if same_bits(old, new) else new.contiguous().clone()
