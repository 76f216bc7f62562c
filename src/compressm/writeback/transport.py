"""How optimizer state follows parameters that change shape or value; nothing is changed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.distributed.fsdp import sharded_like, unsharded
from compressm.edits import Transport
from compressm.writeback.averages import corrected
from compressm.writeback.initial_state import initial_state
from compressm.writeback.optimizer_state import (
    copies_of_weights,
    is_scalar,
    kind_of,
    leaves,
    mean_beside,
    replaced,
    shared_tensors,
)
from compressm.writeback.state_keys import Kind
from compressm.writeback.successor import share_like_

Path = tuple[Any, ...]
Kinds = dict[Path, tuple[Kind, Tensor]]


@dataclass
class ParameterChange:
    """One parameter about to be replaced, and its state in the optimizers that hold it.

    Attributes:
        name: in its module.
        old, new: the parameters; under `fully_shard` each is a rank's slice.
        value: the new value, whole, in the precision in which it was found.
    """

    name: str
    old: nn.Parameter
    new: nn.Parameter
    value: Tensor
    owners: list[Optimizer] = field(default_factory=list)
    states: list[dict[str, Any] | None] = field(default_factory=list)


class StateCarrier:
    """Carries the state that one optimizer keeps for the parameters of a commit.

    Attributes:
        owner: the optimizer.
        unknown: names of state that no rule covers and that starts anew.
    """

    def __init__(self, owner: Optimizer) -> None:
        self.unknown: set[str] = set()
        self.owner = owner
        self._copies = copies_of_weights(owner)
        self._shared = shared_tensors(owner)

    def carried(
        self,
        rule: Transport | None,
        changes: Sequence[ParameterChange],
        states: Sequence[dict[str, Any]],
    ) -> list[dict[str, Any] | None]:
        """The new state of the parameters of one edit (None: no entry).

        What no rule covers starts anew with all that lies beside it: the whole state of that
        parameter, or, where a change of basis mixes them, of all these parameters.

        Args:
            rule: of the edit; None where everything starts anew.
            changes: those parameters of the edit that the optimizer holds.
            states: theirs; empty where there is none.

        Raises:
            OptimizerError: a state has to start anew, and only building the optimizer makes one.
        """
        found = [self._found(rule, c, s) for c, s in zip(changes, states, strict=True)]
        moved: list[dict[Path, Tensor] | None]
        if rule is None:
            moved = [None] * len(changes)
        elif rule.separate:
            moved = [
                None if kinds is None else self._moved(rule, [change], [kinds])[0]
                for change, kinds in zip(changes, found, strict=True)
            ]
        else:
            whole_group = [kinds for kinds in found if kinds is not None]
            complete = len(whole_group) == len(changes)
            moved = self._moved(rule, changes, whole_group) if complete else [None] * len(changes)
        if rule is not None:
            for news, copies in zip(moved, _weights(rule, changes, found), strict=True):
                if news is not None:
                    news |= copies
        out: list[dict[str, Any] | None] = []
        for change, state, news in zip(changes, states, moved, strict=True):
            if not state:
                out.append(None)
            elif news is None:
                out.append(
                    initial_state(
                        self.owner, change.name, change.old, change.new, state, self._copies
                    )
                )
            else:
                out.append(replaced(state, {**news, **_references(change, state)}))
        for state, new in zip(states, out, strict=True):
            _share(state, new)
        return out

    def _found(
        self, rule: Transport | None, change: ParameterChange, state: dict[str, Any]
    ) -> Kinds | None:
        """What lies in one parameter's state; None where some of it cannot follow."""
        found, covered = {}, True
        for leaf in leaves(state):
            if leaf.tensor is change.old or is_scalar(leaf, change.old.shape):
                continue
            kind = kind_of(self.owner, leaf, change.old.shape, self._copies)
            if id(leaf.tensor) in self._shared:
                kind = None
            if rule is not None and (
                (kind is Kind.STEP and not rule.exact)
                or (kind is Kind.UNKNOWN and not _keeps_values(rule, change))
            ):
                kind = None
            if kind is None or leaf.tensor is None:
                covered = False
                if rule is not None:
                    self.unknown.add(f"{type(self.owner).__name__}.{leaf.name}")
            else:
                found[leaf.path] = (kind, leaf.tensor)
        return found if covered else None

    def _moved(
        self, rule: Transport, changes: Sequence[ParameterChange], found: Sequence[Kinds]
    ) -> list[dict[Path, Tensor] | None]:
        """New tensors of parameters that follow together, by their paths, but for `_weights`; None
        for all or none."""
        out: list[dict[Path, Tensor]] = [{} for _ in changes]
        every = {path: item for kinds in found for path, item in kinds.items()}
        for path, (kind, _) in every.items():
            # A change of basis needs the same of every parameter that it mixes.
            if any(kinds.get(path, (None,))[0] is not kind for kinds in found):
                return [None] * len(changes)
            if kind is Kind.WEIGHT:
                continue
            tensors = tuple(kinds[path][1] for kinds in found)
            means = None
            if kind is Kind.SQUARE:
                beside = mean_beside(self.owner, path)
                if all(beside in kinds for kinds in found):
                    means = unsharded(tuple(kinds[beside][1] for kinds in found))
            followed = _follow(kind, rule, unsharded(tensors), means)
            moved = sharded_like(followed, tensors)
            if moved is None:
                return [None] * len(changes)
            for news, tensor in zip(out, moved, strict=True):
                news[path] = tensor
        return list(out)


def _share(state: Any, new: Any) -> None:
    """Of what was in shared memory, the new tensors too."""
    found = {leaf.path: leaf.tensor for leaf in leaves(new)}
    for leaf in leaves(state):
        other = found.get(leaf.path)
        if leaf.tensor is not None and other is not None and other is not leaf.tensor:
            share_like_(leaf.tensor, other)


def _references(change: ParameterChange, state: Any) -> dict[Path, Tensor]:
    """Where a state points to its own parameter, the new one."""
    return {leaf.path: change.new for leaf in leaves(state) if leaf.tensor is change.old}


def _weights(
    rule: Transport, changes: Sequence[ParameterChange], found: Sequence[Kinds | None]
) -> list[dict[Path, Tensor]]:
    """New copies of the weights by their paths: of all parameters of the edit that have one there,
    which a linear map may mix even where gradients follow one by one."""
    out: list[dict[Path, Tensor]] = [{} for _ in changes]
    kinds = [{} if each is None else each for each in found]
    for path in {p: None for each in kinds for p, (kind, _) in each.items() if kind is Kind.WEIGHT}:
        at = [i for i, each in enumerate(kinds) if path in each and each[path][0] is Kind.WEIGHT]
        copies = tuple(kinds[i][path][1] for i in at)
        olds = unsharded(tuple(changes[i].old.detach() for i in at))
        values = [changes[i].value for i in at]
        moved = sharded_like(corrected(rule, unsharded(copies), olds, values), copies)
        for i, tensor in zip(at, moved or (), strict=False):
            out[i][path] = tensor
    return out


def _follow(
    kind: Kind,
    rule: Transport,
    tensors: tuple[Tensor, ...],
    means: tuple[Tensor, ...] | None,
) -> tuple[Tensor, ...] | None:
    """Tensors of one kind in the reduced coordinates; None where the rule does not cover them."""
    if kind is Kind.GRADIENT:
        return rule.first(tensors)
    if kind is Kind.SQUARE:
        return rule.second(tensors, means)
    if kind is Kind.MAGNITUDE:
        squares = rule.second(tuple(_by_part(torch.square, t) for t in tensors))
        return None if squares is None else tuple(_by_part(torch.sqrt, t) for t in squares)
    return rule.first(tensors) if rule.exact else None


def _by_part(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Of complex tensors real and imaginary parts by themselves, as optimizers take them."""
    if not t.is_complex():
        return function(t)
    return torch.view_as_complex(function(torch.view_as_real(t.resolve_conj())))


def _keeps_values(rule: Transport, change: ParameterChange) -> bool:
    """Whether the entries that stay keep their values as well, bit for bit."""
    if not rule.exact:
        return False
    (old,) = unsharded((change.old.detach(),))
    kept = rule.first((old,))
    return kept is not None and torch.equal(kept[0], change.value.to(old))
