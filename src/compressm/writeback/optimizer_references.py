"""Replaced parameters wherever an optimizer keeps them: groups, lists, dicts, partitions.

Optimizers remember parameters in more places than `param_groups`: an optimizer inside shares or
copies the groups, `ZeroRedundancyOptimizer` keeps who steps which, a loop that steps in the
backward pass has a dict of optimizers by parameter. All of it is pointed to the new parameters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from compressm.errors import OptimizerError
from compressm.writeback.ownership import is_optimizer, named_optimizers, parameter_ids
from compressm.writeback.zero_redundancy import is_partitioned, refresh_partition_

_KEYED = ("state", "defaults")  # states are moved with their parameters, by those who move these


def repoint_(optimizers: Iterable[Any], new: Mapping[int, Tensor]) -> None:
    """Put the new parameters in the place of the old ones in all that optimizers keep but states.

    Lists and dicts stay the objects they are.

    Args:
        optimizers: as users give them: optimizers, and dicts of them by parameter.
        new: by the id of the old one.
    """
    optimizers = list(optimizers)
    seen = _states(optimizers)
    for optimizer in optimizers:
        _pointed(optimizer, new, seen)
    for _, owner in named_optimizers(optimizers):
        if is_partitioned(owner):
            refresh_partition_(owner)


def _pointed(node: Any, new: Mapping[int, Tensor], seen: set[int]) -> Any:
    """The node itself, changed inside; another one where it is a parameter, or holds one and
    cannot be changed.
    """
    if isinstance(node, Tensor):
        return new.get(id(node), node)
    if isinstance(node, (str, nn.Module)) or id(node) in seen:
        return node
    if isinstance(node, dict):
        seen.add(id(node))
        items = [(_pointed(k, new, seen), _pointed(v, new, seen)) for k, v in node.items()]
        if any(
            k is not a or v is not b for (k, v), (a, b) in zip(items, node.items(), strict=True)
        ):
            node.clear()
            node.update(items)
    elif isinstance(node, (list, deque, tuple, set, frozenset)):
        seen.add(id(node))
        values = [_pointed(value, new, seen) for value in node]
        if any(value is not old for value, old in zip(values, node, strict=True)):
            if not isinstance(node, (list, deque)):
                named = hasattr(node, "_fields")
                return type(node)(*values) if named else type(node)(values)
            node.clear()
            node.extend(values)
    elif is_optimizer(node):
        seen.add(id(node))
        for name, value in list(vars(node).items()):
            pointed = value if name in _KEYED else _pointed(value, new, seen)
            if pointed is not value:
                vars(node)[name] = pointed
    return node


def containers(optimizers: Iterable[Any]) -> list[Any]:
    """The dicts, lists and queues that `repoint_` may change, each once."""
    found: dict[int, Any] = {}
    waiting = list(optimizers)
    seen = _states(waiting)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (str, Tensor, nn.Module)) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, (dict, list, deque)):
            found[id(node)] = node
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, (list, deque, tuple)):
            waiting += node
        elif is_optimizer(node):
            waiting += [value for name, value in vars(node).items() if name not in _KEYED]
    return list(found.values())


def require_nothing_outside(
    named: Iterable[tuple[str, nn.Parameter]], optimizers: Iterable[Any]
) -> None:
    """Refuse optimizers that keep tensors of the parameters' sizes beside their states.

    Flat buffers, lists of slow weights, caches: nothing says which parameter they belong to, and
    they cannot start anew.

    Args:
        named: the parameters about to be replaced, with their names.
        optimizers: those that follow.

    Raises:
        OptimizerError: such a tensor was found; the message says where.
    """
    wanted, optimizers = {id(p): (name, p) for name, p in named}, list(optimizers)
    states = _states(optimizers)
    for kind, owner in named_optimizers(optimizers):
        held = parameter_ids(owner)
        mine = [wanted[number] for number in held & wanted.keys()]
        if not mine or is_partitioned(owner):
            continue
        shapes = {p.shape for _, p in mine if p.numel() > 1}
        size = sum(p.numel() for _, p in mine)
        for where, tensor in _outside(owner, states):
            if id(tensor) not in held and (tensor.shape in shapes or tensor.numel() >= size > 1):
                raise OptimizerError(
                    f"optimizer: {kind}.{where} keeps a tensor of shape {tuple(tensor.shape)} "
                    f"outside its state, and {mine[0][0]} is about to be cut: it cannot follow. "
                    "Cut before this optimizer is built, or build a new one afterwards"
                )


def _states(optimizers: Iterable[Any]) -> set[int]:
    """Ids of their states, which wrappers may keep under a name of their own as well."""
    found = (vars(owner).get("state") for _, owner in named_optimizers(optimizers))
    return {id(state) for state in found if state is not None}


def _outside(owner: Any, states: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors in attributes, and in entries of the state that are no parameter's."""
    attributes = {k: v for k, v in vars(owner).items() if k not in (*_KEYED, "param_groups")}
    entries = {k: v for k, v in owner.state.items() if not isinstance(k, Tensor)}
    seen = set(states)
    for name, value in attributes.items():
        yield from ((name, tensor) for tensor in _tensors(value, seen))
    for key, value in entries.items():
        yield from ((f"state[{key!r}]", tensor) for tensor in _tensors(value, seen))


def _tensors(node: Any, seen: set[int]) -> Iterator[Tensor]:
    """In containers; optimizers inside are owners of their own."""
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, (dict, list, deque, tuple)) and id(node) not in seen:
        seen.add(id(node))
        for value in node.values() if isinstance(node, dict) else node:
            yield from _tensors(value, seen)
