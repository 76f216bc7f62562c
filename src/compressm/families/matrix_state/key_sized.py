"""Layers whose own code has one size for keys and values, with code that reads each from tensors.

A cut makes keys smaller than values. A layer of this kind then runs a `forward` of ours, and its
own again when the sizes agree. No configuration says so: such a model is stored, and loaded by
`load_compressed`, but nobody can build it without us.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from compressm.errors import InputError
from compressm.families.reclassed import original_class, reclassed

Forward = TypeVar("Forward", bound=Callable[..., Any])
Sizes = Callable[[Any], tuple[int, int]]
_FORWARDS: dict[str, tuple[Callable[..., Any], Sizes]] = {}
_PACKED = ("cu_seq_lens_q", "seq_idx")


class KeySized:
    """Marks layers that run a forward of ours."""


def register_forward(*layers: str, sizes: Sizes) -> Callable[[Forward], Forward]:
    """Give layers, by their full names, a `forward` that takes any number of keys.

    Args:
        layers: package.module.Class of each.
        sizes: values and keys of a head of such a layer.
    """

    def add(forward: Forward) -> Forward:
        _FORWARDS.update(dict.fromkeys(layers, (forward, sizes)))
        return forward

    return add


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _known_base(kind: type) -> Any:
    """The class among the bases of a layer's class that there is a forward of ours for."""
    return next((base for base in kind.__mro__ if _name(base) in _FORWARDS), None)


def has_forward(module: nn.Module) -> bool:
    """Whether there is a forward of ours that does what a layer does."""
    original: Any = original_class(module)
    known = _known_base(original)
    return known is not None and original.forward is known.forward


def head_sizes(module: nn.Module) -> tuple[int, int]:
    """Values and keys of a head, of a layer that has a forward of ours."""
    known = _known_base(type(module))
    assert known is not None
    return _FORWARDS[_name(known)][1](module)


@functools.cache
def key_sized(original: Any) -> Any:
    """The subclass of a layer's class that takes any number of keys.

    Raises:
        InputError: there is no forward for it, or it has another than the one that ours is like.
    """
    known = _known_base(original)
    if known is None:
        raise InputError(f"layer: {original.__name__} has no forward for keys of another size")
    if original.forward is not known.forward:
        raise InputError(
            f"model: {original.__name__} has a forward of its own, which a layer whose keys are "
            f"cut could not run; cut a model with layers of {known.__name__} itself"
        )
    return reclassed(original, _FORWARDS[_name(known)][0], key_sized, KeySized)


def class_at(module: nn.Module, values: int, keys: int) -> type[nn.Module]:
    """The class of a layer with so many keys, and values, of a head.

    Raises:
        InputError: it has a forward of its own that would go on being called, or never again.
    """
    ours = isinstance(module, KeySized)
    if keys == values:
        return original_class(module) if ours else type(module)
    if ours:  # what was made of the class since, by sharding, stays
        return type(module)
    if "forward" in vars(module):
        raise InputError(
            f"model: the forward of a {type(module).__name__} was replaced (by the hooks of a "
            "device map, or a patch), and a cut layer needs one of ours; undo that, cut, and do it "
            "again"
        )
    original: Any = original_class(module)
    kind: type[nn.Module] = key_sized(original)
    return kind


def why_not_stock(key: str, values: int, keys: int) -> str | None:
    """What a reader of an event should know of a layer with so many keys of a head."""
    if keys == values:
        return None
    return (
        f"not stock: transformers has one number, {key}, for keys and values, and no place for "
        f"{keys} keys beside {values} values; from_pretrained refuses the folder. Build the model "
        "from its configuration and load it with compressm.load_compressed"
    )


def masked(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Inputs (B, L, width) with zeros where a step does not count."""
    return hidden if mask is None else (hidden * mask[:, :, None]).to(hidden.dtype)


def refuse_packed(options: dict[str, Any]) -> None:
    """Refuse several sequences in one row, which these layers would run into each other.

    Raises:
        InputError: an option says where they begin.
    """
    for name in _PACKED:
        if options.get(name) is not None:
            raise InputError(
                f"{name}: packed sequences are not supported by a layer whose keys were cut; "
                "pass one sequence for each row, padded, with attention_mask"
            )
