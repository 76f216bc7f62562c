"""New values for a group of parameters of one module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from compressm.edits.transport import Reset, Transport
from compressm.errors import InputError


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """New values for a group of parameters of one module, and what it says about its own sizes.

    Attributes:
        module: the live module.
        names: its parameters that change together; with dots, those of modules inside it.
        values: the new value of each, same order; dtype and device follow the old parameter.
        transport: how optimizer state of the group follows.
        attributes: other things to set, by dotted name ("conv1d.groups", "config.state_size"):
            plain values, and tensors for buffers. They exist already.
    """

    module: nn.Module
    names: tuple[str, ...] = ()
    values: tuple[Tensor, ...] = ()
    transport: Transport = field(default_factory=Reset)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse edits that cannot be applied, before anything is touched."""
        owner = type(self.module).__name__
        for name, value in zip(self.names, self.values, strict=True):
            try:
                old = self.module.get_parameter(name)
            except AttributeError:
                known = ", ".join(key for key, _ in self.module.named_parameters())
                raise InputError(f"edit: {owner} has no parameter {name!r}, only {known}") from None
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"edit: the new {name} of {owner} has NaN/inf")
            if value.ndim != old.ndim:
                raise InputError(
                    f"edit: {name} has {old.ndim} dimensions, the new value has {value.ndim}"
                )
        for name in self.attributes:
            holder, key = holder_of(self.module, name)
            # A configuration may be told more than it knows.
            if isinstance(holder, nn.Module) and not hasattr(holder, key):
                raise InputError(f"edit: {owner} has no attribute {name!r}")

    @property
    def places(self) -> tuple[tuple[nn.Module, str], ...]:
        """Which module holds each parameter, and under which name."""
        return tuple(holder_of(self.module, name) for name in self.names)

    @property
    def olds(self) -> tuple[nn.Parameter, ...]:
        """The live parameters that would be replaced."""
        return tuple(self.module.get_parameter(name) for name in self.names)


def holder_of(root: Any, name: str) -> tuple[Any, str]:
    """The object that has the last part of a dotted name, and that part.

    Raises:
        InputError: there is no such object below `root`.
    """
    *path, key = name.split(".")
    holder = root
    for step in path:
        if not hasattr(holder, step):
            raise InputError(f"edit: {type(root).__name__} has no {name!r}: {step!r} is missing")
        holder = getattr(holder, step)
    return holder, key
