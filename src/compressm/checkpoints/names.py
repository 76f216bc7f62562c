"""Keys of a checkpoint under the names that the model has for them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from compressm.distributed.unwrapped import uncompiled
from compressm.errors import CheckpointError

V = TypeVar("V")
# What wrappers put into names: `torch.compile` anywhere, the others in front.
_COMPILED, _WRAPPED = "_orig_mod", "module"


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without wrappers around it."""
    while True:
        inner = uncompiled(model)
        if isinstance(inner, (DistributedDataParallel, DataParallel)):
            inner = inner.module
        if inner is model:
            return model
        model = inner


def under_our_names(
    model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, V]
) -> dict[str, V]:
    """What arrives, under the names that it has in the model; the rest as it is.

    Names differ by what wrappers ("module.", "_orig_mod.") and other modules around the model put
    in front and by the names of original checkpoints that `save_pretrained` gives some models. Tied
    weights may be there once.

    Raises:
        CheckpointError: the checkpoint is of a part of the model.
    """
    found = dict(state)
    if own.keys() - found.keys():
        found = _without_wrapper_names(own, found)
    if own.keys() - found.keys():
        found = _reverted(model, own, found)
    found = {**_tied(model, found), **found}
    if own and not own.keys() & found.keys():
        if front := _front(found, own):
            found = {name.removeprefix(front): value for name, value in found.items()}
        elif front := _front(own, found):
            raise CheckpointError(
                f"checkpoint: all names of the model begin with {front!r}, those of the checkpoint "
                "do not; add it to them, or give the part of the model that the checkpoint is of"
            )
    return found


def _without_wrapper_names(own: Iterable[str], state: Mapping[str, V]) -> dict[str, V]:
    here = {_plain(name): name for name in own}
    names = {name: here.get(_plain(name), name) for name in state}
    return {names[name]: value for name, value in state.items()} if _distinct(names) else {**state}


def _plain(name: str) -> str:
    parts = [part for part in name.split(".") if part != _COMPILED]
    while len(parts) > 1 and parts[0] == _WRAPPED:
        parts = parts[1:]
    return ".".join(parts)


def _distinct(names: Mapping[str, str]) -> bool:
    return len(set(names.values())) == len(names)


def _reverted(model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, V]) -> dict[str, V]:
    """`save_pretrained` gives some models' parameters the names of their original checkpoints."""
    rename = getattr(
        sys.modules.get("transformers.core_model_loading"), "revert_weight_conversion", None
    )
    if rename is None or not hasattr(model, "save_pretrained"):
        return {**state}
    here = {id(tensor): name for name, tensor in own.items()}
    names = {
        stored: here[id(tensor)]
        for stored, tensor in rename(model, dict(own)).items()
        if id(tensor) in here
    }
    return {names.get(name, name): value for name, value in state.items()}


def _tied(model: nn.Module, state: Mapping[str, V]) -> dict[str, V]:
    """Parameters that are missing because they are another one that is there."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    found: dict[str, V] = {}
    for group in names.values():
        there = next((name for name in group if name in state), None)
        if there is not None:
            found |= {name: state[there] for name in group if name not in state}
    return found


def _front(longer: Iterable[str], shorter: Iterable[str]) -> str | None:
    """What stands before all names of `shorter` in `longer`; None where that is not one thing."""
    names, one = set(longer), next(iter(shorter), None)
    fronts = {name.removesuffix(one) for name in names if one and name.endswith(f".{one}")}
    fronts = {front for front in fronts if {front + name for name in shorter} <= names}
    return fronts.pop() if len(fronts) == 1 else None
