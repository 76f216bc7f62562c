"""Keys of a checkpoint under the names that the model has for them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from compressm.distributed.unwrapped import uncompiled
from compressm.errors import CheckpointError

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
    model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What arrives, under the names that it has in the model; the rest as it is.

    Names differ by what wrappers ("module.", "_orig_mod.") and other modules around the model put
    in front, and by the arrangement of original checkpoints that `save_pretrained` gives some
    models. Tied weights may be there once.

    Raises:
        CheckpointError: the checkpoint is of a part of the model, or arranged as it cannot be for
            its sizes.
    """
    found = dict(state)
    if own.keys() - found.keys():
        found = _without_wrapper_names(own, found)
    if own.keys() - found.keys():
        found = _converted(model, own, found)
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


def _without_wrapper_names(own: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def _converted(
    model: Any, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`save_pretrained` arranges some models' parameters as in their original checkpoints.

    Names differ, experts are apart, convolutions are in parts. transformers says how these are put
    together again; what has the name of a parameter stays as it is.
    """
    core: Any = sys.modules.get("transformers.core_model_loading")
    mapping: Any = sys.modules.get("transformers.conversion_mapping")
    if core is None or mapping is None or not hasattr(model, "save_pretrained"):
        return {**state}
    rules = getattr(model, "_weight_conversions", None)
    rules = (
        mapping.get_model_conversion_mapping(model, add_legacy=False) if rules is None else rules
    )
    renamings = [rule for rule in rules if isinstance(rule, core.WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, core.WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    found = {name: value for name, value in state.items() if name in own}
    parts: dict[str, Any] = {}
    for stored in sorted(state.keys() - found.keys(), key=core.dot_natural_key):
        name, pattern = core.rename_source_key(
            stored, renamings, converters, model.base_model_prefix, own
        )
        if pattern is None:
            found[name if name in own else stored] = state[stored]
            continue
        if name not in parts:
            parts[name] = copy.deepcopy(by_pattern[pattern])
        parts[name].add_tensor(name, stored, pattern, state[stored])
    for name, rule in parts.items():
        try:
            made = rule.convert(name, model=model, config=model.config)
        except RuntimeError as error:
            # Some rules read sizes from the model, which has others than the checkpoint.
            raise CheckpointError(
                f"checkpoint: transformers cannot make {name} of what is stored, in a model of "
                f"these sizes ({error}); build the model from the checkpoint's own config.json, or "
                "give the state dict of the cut model"
            ) from error
        found |= {k: value[0] if isinstance(value, list) else value for k, value in made.items()}
    return found


def _tied(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters that are missing because they are another one that is there."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    found: dict[str, Tensor] = {}
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
