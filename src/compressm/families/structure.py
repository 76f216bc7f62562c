"""Is a layer what its type says? Its parameters against those that its family knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compressm.errors import InputError

_MERGE = "merge the adapters first (model = model.merge_and_unload()), or cut before they are added"
_QUANTISE = "cut first and quantise or wrap it afterwards"


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Parameters and buffers of a layer that its family reads; with dots, those inside.

    Attributes:
        needed: without these it is another layer.
        optional: it may have these too.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


def require_known(path: str, layer: nn.Module, family: str, known: Tensors) -> None:
    """Refuse a layer that has other parameters or buffers than its family knows.

    Raises:
        InputError: one is missing, of a kind that cannot be cut, or unknown.
    """
    where = f"model: {path or 'the layer'} ({type(layer).__name__})"
    own: dict[str, Tensor] = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    for name in known.needed:
        if name not in own:
            raise InputError(f"{where} has no {name}; {_replaced(layer, name)}")
    known_here = {*known.needed, *known.optional}
    unknown = sorted(own.keys() - known_here)
    if unknown:
        adapted = any(_is_adapter(layer, name) for name in unknown)
        advice = _MERGE if adapted else f"register an adapter for {type(layer).__name__} itself"
        raise InputError(
            f"{where} has {', '.join(unknown[:4])}{' …' if len(unknown) > 4 else ''}, which the "
            f"{family} family does not know, so a cut would leave out what they do; {advice}"
        )
    for name, parameter in layer.named_parameters():
        if kind := _packed(parameter):
            raise InputError(f"{where}: {name} holds {kind}, which cannot be cut; {_QUANTISE}")


def _replaced(layer: nn.Module, name: str) -> str:
    """What stands where a parameter should be, and what to do about it."""
    child: Any = layer
    for key in name.split(".")[:-1]:
        child = getattr(child, key, None)
    if child is layer or not isinstance(child, nn.Module):
        return "its family cannot read it; register an adapter for its type itself"
    holder = name.rpartition(".")[0]
    advice = _MERGE if hasattr(child, "base_layer") else _QUANTISE
    return f"its {holder} is a {type(child).__name__} now; {advice}"


def _is_adapter(layer: nn.Module, name: str) -> bool:
    inside = name.rpartition(".")[0]
    while inside:
        if hasattr(layer.get_submodule(inside), "base_layer"):
            return True
        inside = inside.rpartition(".")[0]
    return "lora" in name.lower()


def _packed(parameter: Tensor) -> str | None:
    """What a parameter holds instead of numbers that can be cut, or None.

    By what it has where its class belongs to a package that is not imported here.
    """
    if any(hasattr(parameter, name) for name in ("quant_state", "quant_type", "SCB")):
        return f"quantised weights ({type(parameter).__name__})"
    number = parameter.is_floating_point() or parameter.is_complex()
    if not number or parameter.element_size() < 2:
        return f"quantised weights ({parameter.dtype})"
    computed = type(parameter).__torch_dispatch__ is not Tensor.__torch_dispatch__
    if computed and type(parameter).__module__.partition(".")[0] != "torch":
        return f"a {type(parameter).__name__}, a tensor of a type of its own"
    return None
