"""What the tensors that an optimizer keeps for a parameter are; nothing is changed here.

When a parameter changes its shape or its values, what lies beside it follows by what it is: an
estimate of gradients, of their squares, or a copy of the weights. Names say it where they are
known. Under any other name a tensor that lies close to the weights is a copy of them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import (
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
    Set,
)
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from compressm.writeback.state_keys import Kind, entry_of, kind_by_key

# A tensor is a copy of the weights where it is nearer to them than this share of their spread.
# Weights that are all alike (zeros, ones) have none and prove nothing; nor do a few numbers.
NEAR = 0.1
ENOUGH = 8


@dataclass(frozen=True, eq=False)
class Leaf:
    """One tensor in the state of a parameter.

    Attributes:
        path: keys, positions and field names that lead to it.
        tensor: anything that has a shape to follow; None for what cannot be followed at all.
    """

    path: tuple[Any, ...]
    tensor: Tensor | None

    @property
    def key(self) -> str:
        """The innermost name on its path."""
        return next((step for step in reversed(self.path) if isinstance(step, str)), "")

    @property
    def name(self) -> str:
        """For messages: the outermost key."""
        return str(self.path[0])


def leaves(
    state: Any, path: tuple[Any, ...] = (), above: frozenset[int] = frozenset()
) -> Iterator[Leaf]:
    """All tensors in a state at any depth, and shapes written down as such."""
    if isinstance(state, Tensor):
        yield Leaf(path, state)
    elif isinstance(state, torch.Size) or (hasattr(state, "dtype") and bool(state.shape)):
        yield Leaf(path, None)  # arrays of other libraries, too
    elif id(state) not in above:
        for step, value in _parts(state):
            yield from leaves(value, (*path, step), above | {id(state)})


def replaced(state: Any, news: Mapping[tuple[Any, ...], Tensor], path: tuple[Any, ...] = ()) -> Any:
    """The state with other tensors at these paths; containers on the way there are new."""
    if path in news:
        return news[path]
    if not any(leading[: len(path)] == path for leading in news):
        return state
    parts = {step: replaced(value, news, (*path, step)) for step, value in _parts(state)}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*parts.values())
    if isinstance(state, (tuple, Set)):
        return type(state)(parts.values())  # type: ignore[call-arg]
    other = copy.copy(state)
    if isinstance(other, MutableMapping):
        other.update(parts)
    elif isinstance(other, MutableSequence):  # a deque keeps its length
        other.clear()
        other.extend(parts.values())
    else:
        for name, value in parts.items():
            object.__setattr__(other, name, value)  # also of a frozen dataclass
    return other


def _parts(node: Any) -> list[tuple[Any, Any]]:
    """What a container holds, by key, position or field; other objects are looked into as well."""
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, (str, bytes, range)):
        return []
    if isinstance(node, (Sequence, Set)):
        return list(enumerate(node))
    if isinstance(node, (type, FunctionType, MethodType, ModuleType, Optimizer)):
        return []
    return list(vars(node).items()) if hasattr(node, "__dict__") else []


def kind_of(owner: Optimizer, leaf: Leaf, shape: torch.Size, copies: frozenset[str]) -> Kind | None:
    """What a tensor in the state of a parameter of this shape is.

    None for what cannot be followed at all: another shape, a quantised or packed tensor, factors
    of a matrix. A single number is no such thing, see `is_scalar`.

    Args:
        owner: the optimizer that keeps it.
        leaf: the tensor.
        shape: of the parameter.
        copies: what `copies_of_weights` found.
    """
    tensor = leaf.tensor
    if tensor is None or tensor.shape != shape or not _is_plain(tensor):
        return None
    kind = kind_by_key(owner, leaf.key) if _is_number(tensor) else Kind.UNKNOWN
    if kind is Kind.UNKNOWN and leaf.key in copies:
        return Kind.WEIGHT
    if kind is Kind.UNKNOWN and (len(leaf.path) > 1 or _is_square(shape)):
        return None  # may as well be a factor of a matrix as a value for each entry
    return kind


def is_scalar(leaf: Leaf, shape: torch.Size) -> bool:
    """Whether it is a single number, such as a count of steps, and none of the parameter's."""
    return leaf.tensor is not None and leaf.tensor.numel() <= 1 and leaf.tensor.shape != shape


def copies_of_weights(owner: Optimizer) -> frozenset[str]:
    """Unknown keys under which the optimizer keeps copies of the weights, judged by the numbers.

    For every parameter that can tell (not all entries alike, enough of them), the tensor must be
    nearer to the weights than `NEAR` of their spread around their mean. A moment, a preconditioner
    or a step size of some ten entries does not come that close by chance.
    """
    votes: dict[str, list[bool]] = {}
    for parameter, state in owner.state.items():
        if not isinstance(parameter, Tensor) or parameter.numel() < ENOUGH:
            continue
        for leaf in leaves(state):
            t = leaf.tensor
            if t is None or t.shape != parameter.shape or not (_is_plain(t) and _is_number(t)):
                continue
            if kind_by_key(owner, leaf.key) is Kind.UNKNOWN:
                votes.setdefault(leaf.key, []).extend(_is_near(t, parameter))
    return frozenset(key for key, near in votes.items() if near and all(near))


def shared_tensors(owner: Optimizer) -> set[int]:
    """Ids of the tensors that lie in the states of several parameters."""
    counts: Counter[int] = Counter()
    for key, state in owner.state.items():
        if isinstance(key, Tensor):
            counts.update({id(leaf.tensor) for leaf in leaves(state) if leaf.tensor is not None})
    return {number for number, count in counts.items() if count > 1}


def mean_beside(owner: Optimizer, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where the mean lies whose square is taken away from the mean of squares at this path.

    Whether the optimizer keeps one, the path does not say.
    """
    entry = entry_of(owner, Leaf(path, None).key)
    at = max((i for i, step in enumerate(path) if isinstance(step, str)), default=0)
    return (*path[:at], "" if entry is None else entry.mean, *path[at + 1 :])


def _is_near(tensor: Tensor, parameter: Tensor) -> list[bool]:
    """One vote, or none where the weights cannot tell."""
    dtype = torch.complex128 if parameter.is_complex() else torch.float64
    weights = parameter.detach().to(dtype)
    spread = _norm(weights - weights.mean())
    distance = _norm(tensor.detach().to(device=weights.device, dtype=dtype) - weights)
    return [distance <= NEAR * spread] if spread > 0 else []


def _norm(tensor: Tensor) -> float:
    norm = torch.linalg.vector_norm(tensor)
    whole = getattr(norm, "full_tensor", None)  # of shards: of all of them, on every rank
    return float(norm if whole is None else whole())


def _is_plain(tensor: Tensor) -> bool:
    """Whether its entries are values: no subclass that stores them in another way."""
    return type(tensor) in (Tensor, torch.nn.Parameter) or type(tensor).__name__ == "DTensor"


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_square(shape: torch.Size) -> bool:
    sizes = [size for size in shape if size > 1]
    return len(sizes) > len(set(sizes))
