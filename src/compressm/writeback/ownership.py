"""Who trains a parameter: the optimizers that are given, and those inside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.arguments import shown
from compressm.errors import OptimizerError
from compressm.writeback.zero_redundancy import require_known

_CONTAINERS = (list, deque, tuple, set, frozenset)


def as_optimizers(optimizer: Any) -> list[Optimizer]:
    """What users give (one, several, dicts of them, or None) as a list; dicts stay dicts.

    Raises:
        OptimizerError: not an optimizer, or one that cannot follow: it keeps no state for each
            parameter (LBFGS), or steps inside hooks of a wrapper.
    """
    if optimizer is None:
        return []
    several = isinstance(optimizer, Iterable) and not hasattr(optimizer, "param_groups")
    whole = not several or isinstance(optimizer, Mapping)
    listed: list[Any] = [optimizer] if whole else list(optimizer)
    for item in (part for each in listed for part in _members(each)):
        if not hasattr(item, "param_groups") or not hasattr(item, "state"):
            raise OptimizerError(
                "optimizer: expected a torch optimizer, a sequence of them or None, got "
                f"{shown(item)}"
            )
    for name, item in named_optimizers(listed):
        if isinstance(item, torch.optim.LBFGS):
            raise OptimizerError(
                f"optimizer: {name} keeps one flat history of all parameters, which cannot follow "
                "a change of shape; cut between two runs of it, with a new LBFGS for each"
            )
    require_known(item for _, item in named_optimizers(listed))
    return listed


def _members(given: Any) -> Iterable[Any]:
    return given.values() if isinstance(given, Mapping) else [given]


def in_backward(model: nn.Module) -> list[Optimizer]:
    """Optimizers that step in the backward pass, as torch hangs them on parameters."""
    return [o for p in model.parameters() for o in getattr(p, "_in_backward_optimizers", ())]


def all_optimizers(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """The optimizers, and those inside them in any attribute, list, tuple or dict; each once.

    Of a wrapper that keeps nothing of its own (Accelerate's, Lightning's) only the optimizer
    inside it is there.
    """
    return [owner for _, owner in named_optimizers(optimizers)]


def named_optimizers(optimizers: Iterable[Optimizer]) -> list[tuple[str, Optimizer]]:
    """`all_optimizers`, with names for messages: "AdamW", "SAM.base_optimizer (Adam)"."""
    found: list[tuple[str, Optimizer]] = []
    seen: set[int] = set()
    for optimizer in optimizers:
        path = "" if isinstance(optimizer, dict) else type(optimizer).__name__
        found += _inside(optimizer, path, seen)
    return [
        (name, owner)
        for i, (name, owner) in enumerate(found)
        if not any(_same(owner, inner) for _, inner in found[i + 1 :])
    ]


def _inside(node: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Optimizer]]:
    """Optimizers at `node` and below it, outer ones first."""
    if isinstance(node, (Tensor, nn.Module, str)) or id(node) in seen:
        return
    if isinstance(node, dict):
        seen.add(id(node))
        for key, value in node.items():
            named = path and isinstance(key, (str, int))
            shown = f"{path}[{key!r}]" if named else path
            yield from _inside(value, shown, seen)
    elif isinstance(node, _CONTAINERS):
        seen.add(id(node))
        for i, value in enumerate(node):
            yield from _inside(value, f"{path}[{i}]", seen)
    elif is_optimizer(node):
        seen.add(id(node))
        kind = type(node).__name__
        yield (kind if path in ("", kind) else f"{path} ({kind})"), node
        for key, value in vars(node).items():
            if key not in ("state", "param_groups", "defaults"):
                yield from _inside(value, f"{path}.{key}", seen)


def is_optimizer(node: Any) -> bool:
    """Whether it is an optimizer, or something that is used like one."""
    kind = type(node)
    if issubclass(kind, Optimizer):
        return True
    return all(hasattr(kind, name) for name in ("step", "zero_grad", "__dict__")) and all(
        hasattr(node, name) for name in ("param_groups", "state")
    )


def _same(one: Optimizer, other: Optimizer) -> bool:
    """Whether both are views of one optimizer: the same groups and the same state."""
    groups = [[id(group) for group in o.param_groups] for o in (one, other)]
    return one.state is other.state and groups[0] == groups[1]


def parameter_ids(optimizer: Optimizer) -> set[int]:
    """Ids of the parameters in its groups."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def holders(parameter: Tensor, optimizers: Iterable[Optimizer]) -> list[str]:
    """Names of the optimizers, given or inside these, that have the parameter in a group."""
    return [name for name, o in named_optimizers(optimizers) if id(parameter) in parameter_ids(o)]


def require_held(
    named: Iterable[tuple[str, nn.Parameter]], optimizers: Sequence[Optimizer]
) -> None:
    """Refuse trainable parameters that no given optimizer trains; without optimizers, all is well.

    Raises:
        OptimizerError: a trainable parameter is in none of the optimizers, nor in one inside them.
    """
    if not optimizers:
        return
    owners = named_optimizers(optimizers)
    held = set().union(*(parameter_ids(owner) for _, owner in owners))
    for name, parameter in named:
        if parameter.requires_grad and id(parameter) not in held:
            raise OptimizerError(
                f"optimizer: {name} is trainable, but no given optimizer holds it "
                f"({', '.join(owner for owner, _ in owners)}), so it would not learn; pass every "
                "optimizer of the model, or requires_grad_(False) it. An optimizer over copies of "
                "the weights trains the copies, not the model"
            )
