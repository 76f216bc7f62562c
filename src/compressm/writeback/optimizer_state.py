"""What the tensors that an optimizer keeps for a parameter are; nothing is changed here.

When a parameter changes its shape or its values, what lies beside it follows by what it is: an
estimate of gradients, of their squares, or a copy of the weights. Names say it where they are
known. Under any other name a tensor that lies close to the weights is a copy of them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import (
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
    Set,
)
from enum import Enum
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Kind(Enum):
    """What a tensor of optimizer state is; the value says what a cut does to it."""

    GRADIENT = "follows as gradients do"
    SQUARE = "follows as squares of gradients do"
    MAGNITUDE = "follows as roots of such squares do"
    WEIGHT = (
        "goes through the linear map that made the new values of the old ones, and gets what these "
        "have beside; where no map did, it is the new value"
    )
    STEP = "is indexed where existing states are kept, else starts anew"
    UNKNOWN = "is indexed where existing states keep their values too, else starts anew"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a key means.

    Attributes:
        key: in the state of a parameter.
        kind: what lies there.
        optimizers: that write it, in words.
        only: parts of class names; elsewhere the key may mean something else. Empty: everywhere.
        never: parts of class names where it does mean something else.
        mean: of a mean of squares, the key of the mean of gradients whose square the optimizer
            takes away from it, where it keeps one.
    """

    key: str
    kind: Kind
    optimizers: str
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    mean: str = ""

    def holds_for(self, owner: Optimizer) -> bool:
        """Whether the optimizer is one that means this by the key."""
        names = [base.__name__ for base in type(owner).__mro__]
        named = [any(part in name for name in names) for part in self.only]
        other = [any(part in name for name in names) for part in self.never]
        return not any(other) and (any(named) or not self.only)


# Of several entries for one key the first that holds for an optimizer says what it means there.
TABLE = (
    Entry("exp_avg", Kind.GRADIENT, "Adam and its kin, Lion, Prodigy, Adafactor with momentum"),
    Entry("momentum_buffer", Kind.GRADIENT, "SGD, RMSprop, Muon"),
    Entry("exp_avg_fast", Kind.GRADIENT, "AdEMAMix"),
    Entry("exp_avg_slow", Kind.GRADIENT, "AdEMAMix"),
    Entry("exp_avg_diff", Kind.GRADIENT, "Adan"),
    Entry("neg_pre_grad", Kind.GRADIENT, "Adan"),
    Entry("previous_grad", Kind.GRADIENT, "Adan, diffGrad"),
    Entry("last_grad", Kind.GRADIENT, "MARS"),
    Entry("grok_exp_avg", Kind.GRADIENT, "GrokFast"),
    Entry("moment1", Kind.GRADIENT, "Muon as published"),
    Entry("grad_avg", Kind.GRADIENT, "RMSprop, centred"),
    Entry("momentum", Kind.GRADIENT, "third parties' SGD"),
    Entry("e_w", Kind.GRADIENT, "SAM"),
    Entry("old_g", Kind.GRADIENT, "SAM"),
    Entry("prev", Kind.GRADIENT, "Rprop", only=("Rprop",)),
    Entry("s", Kind.GRADIENT, "Prodigy, D-Adaptation", only=("Prodigy", "DAdapt")),
    Entry("exp_mean_avg_beta2", Kind.GRADIENT, "LaProp, centred"),
    Entry(
        "state1",
        Kind.SQUARE,
        "bitsandbytes, where not quantised",
        only=("RMSprop", "Adagrad"),
    ),
    Entry("state1", Kind.GRADIENT, "the others of bitsandbytes, where not quantised"),
    Entry("exp_avg_sq", Kind.SQUARE, "M-SVAG", only=("MSVAG",), mean="exp_avg"),
    Entry(
        "exp_avg_sq",
        Kind.SQUARE,
        "Adam and its kin, Prodigy, schedule-free AdamW",
        mean="exp_mean_avg_beta2",
    ),
    Entry("max_exp_avg_sq", Kind.SQUARE, "Adam and AdamW with amsgrad"),
    Entry("square_avg", Kind.SQUARE, "RMSprop, Adadelta", mean="grad_avg"),
    Entry("exp_avg_var", Kind.SQUARE, "AdaBelief"),
    Entry("max_exp_avg_var", Kind.SQUARE, "AdaBelief with amsgrad"),
    Entry("moment2", Kind.SQUARE, "Muon as published"),
    Entry("sum", Kind.SQUARE, "Adagrad", only=("Adagrad",)),
    Entry("variance", Kind.SQUARE, "Adafactor, vectors", only=("Adafactor",)),
    Entry("state2", Kind.SQUARE, "bitsandbytes, where not quantised"),
    Entry("exp_inf", Kind.MAGNITUDE, "Adamax"),
    Entry("z", Kind.WEIGHT, "schedule-free AdamW and SGD", never=("FTRL", "Ftrl")),
    Entry("ax", Kind.WEIGHT, "ASGD"),
    Entry("p0", Kind.WEIGHT, "Prodigy"),
    Entry("old_p", Kind.WEIGHT, "SAM"),
    Entry("slow", Kind.WEIGHT, "Lookahead"),
    Entry("slow_param", Kind.WEIGHT, "Lookahead"),
    Entry("slow_buffer", Kind.WEIGHT, "Lookahead"),
    Entry("slow_params", Kind.WEIGHT, "Lookahead"),
    Entry("slow_weights", Kind.WEIGHT, "Lookahead"),
    Entry("lookahead_slow_buff", Kind.WEIGHT, "Lookahead"),
    Entry("cached_params", Kind.WEIGHT, "Lookahead"),
    Entry("master", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("master_param", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("master_params", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("master_weight", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("fp32_param", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("acc_delta", Kind.STEP, "Adadelta"),
    Entry("step_size", Kind.STEP, "Rprop"),
)
_BY_KEY = {key: [e for e in TABLE if e.key == key] for key in {e.key for e in TABLE}}

# A tensor is a copy of the weights where it is nearer to them than this share of their spread.
# Weights that are all alike (zeros, ones) have none and prove nothing; nor do a few numbers.
NEAR = 0.1
ENOUGH = 8


@dataclasses.dataclass(frozen=True, eq=False)
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
    kind = _named(owner, leaf.key) if _is_number(tensor) else Kind.UNKNOWN
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
            if _named(owner, leaf.key) is Kind.UNKNOWN:
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
    entry = _entry(owner, Leaf(path, None).key)
    at = max((i for i, step in enumerate(path) if isinstance(step, str)), default=0)
    return (*path[:at], "" if entry is None else entry.mean, *path[at + 1 :])


def _named(owner: Optimizer, key: str) -> Kind:
    entry = _entry(owner, key)
    return Kind.UNKNOWN if entry is None else entry.kind


def _entry(owner: Optimizer, key: str) -> Entry | None:
    return next((e for e in _BY_KEY.get(key, ()) if e.holds_for(owner)), None)


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
