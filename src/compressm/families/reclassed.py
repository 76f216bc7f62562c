"""Layers of other people that run another `forward`: of subclasses made at run time.

The class of a live layer changes, and nothing else of it: parameters, hooks and names stay. Copies
and pickles find their way back, since a subclass is made again from the class that it was made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Reclassed:
    """What all of these subclasses have.

    Attributes:
        compressm_original: the class that it was made of.
        compressm_maker: the function that made it, of the module level, which makes no second one.
    """

    compressm_original: type[nn.Module]
    compressm_maker: Callable[[type[nn.Module]], type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        kind = type(self)
        made_of = (kind.compressm_maker, kind.compressm_original)
        return _rebuilt, made_of, self.__dict__.copy()


def _rebuilt(maker: Any, original: Any) -> nn.Module:
    kind: Any = maker(original)
    module: nn.Module = kind.__new__(kind)
    return module


def reclassed(
    original: type[nn.Module],
    forward: Callable[..., Any],
    maker: Callable[[Any], Any],
    *marks: type,
) -> type[nn.Module]:
    """A subclass of `original` with another `forward`, its name and its place.

    Args:
        original: a layer's class.
        forward: what it runs.
        maker: what was called for it, with `original` alone, see `Reclassed`.
        marks: further base classes to know it by.
    """
    body = {
        "forward": forward,
        "compressm_original": original,
        "compressm_maker": staticmethod(maker),
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
    }
    return type(original.__name__, (*marks, Reclassed, original), body)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class of a layer, as it was before it got another `forward`."""
    return module.compressm_original if isinstance(module, Reclassed) else type(module)
