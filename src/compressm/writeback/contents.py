"""What is in containers: the same objects in the same places, and the values of tensors."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from operator import is_
from typing import Any, final

import torch
from torch import Tensor

from compressm.storage.bits import same_bits
from compressm.storage.state_trees import fill_, like

_CONTAINERS = (dict, list, set, deque)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@final
class Contents:
    """A value of nested dicts, lists, tuples, sets and queues, at one moment.

    Only these and tensors are looked into. All else (functions, modules, somebody's schedulers) is
    remembered as the object that it is, whatever goes on inside of it.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        nodes = list(_walk(value))
        self._containers = [(n, content_of(n)) for n in nodes if isinstance(n, _CONTAINERS)]

    def copied(self) -> Any:
        """The value with containers and tensors of its own; all other objects are the same."""
        memo = {id(node): node for node in _walk(self.value) if _is_leaf(node)}
        memo |= {id(tensor): tensor.detach().clone() for tensor in _tensors(self.value)}
        return copy.deepcopy(self.value, memo)

    @torch.no_grad()
    def put_back(self, copied: Any) -> None:
        """Everything is in its place again, with the values in what `copied` has returned."""
        for node, content in self._containers:
            refill_(node, content)
        for tensor, values in zip(_tensors(self.value), _tensors(copied), strict=True):
            if not same_bits(tensor, values):
                tensor.copy_(values)


def adopted(present: Any, copied: Any) -> Any:
    """What another process has copied, of the objects that are here, as far as there are any.

    Of `present` are tensors of the same shape and dtype, and objects of the same class that are
    neither containers nor plain values.
    """
    if isinstance(copied, Tensor):
        if isinstance(present, Tensor):
            copied = copied.to(present.device)
            if (present.shape, present.dtype) == (copied.shape, copied.dtype):
                return present
        return copied.clone()
    if isinstance(copied, dict):
        here = present if isinstance(present, dict) else {}
        return like(copied, {key: adopted(here.get(key), item) for key, item in copied.items()})
    if type(copied) in (list, tuple):
        same = type(present) is type(copied) and len(present) == len(copied)
        return type(copied)(
            adopted(present[i] if same else None, item) for i, item in enumerate(copied)
        )
    own = type(copied) in _PLAIN or isinstance(copied, (*_CONTAINERS, tuple))
    return present if not own and type(present) is type(copied) else copied


def content_of(container: Any) -> Any:
    """A dict, list or set of what is in a container now, for `refill_`."""
    if isinstance(container, dict):
        return dict(container.items())
    return set(container) if isinstance(container, set) else list(container)


def refill_(container: Any, content: Any) -> None:
    """Give a dict, list, set or queue the content it had, in its order; it stays the same one."""
    if isinstance(container, dict):
        now, then = [*container.items()], [*content.items()]
        unchanged = len(now) == len(then) and all(
            a is b and x is y for (a, x), (b, y) in zip(now, then, strict=True)
        )
    else:
        unchanged = len(container) == len(content) and all(map(is_, container, content))
    if unchanged:
        return
    if isinstance(container, dict):
        fill_(container, content)
        return
    container.clear()
    if isinstance(container, set):
        container.update(content)
    else:
        container.extend(content)


def _walk(node: Any, above: frozenset[int] = frozenset()) -> Iterator[Any]:
    """Everything in nested containers, from outside in; what is in several places, several times.

    Sets have no order in which a copy could be walked alike: what is in them is not looked into.
    """
    if id(node) in above:
        return
    yield node
    if isinstance(node, (*_CONTAINERS, tuple)) and not isinstance(node, set):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _walk(item, above | {id(node)})


def _tensors(node: Any) -> Iterator[Tensor]:
    return (item for item in _walk(node) if isinstance(item, Tensor))


def _is_leaf(node: Any) -> bool:
    return not isinstance(node, (*_CONTAINERS, tuple, Tensor))
