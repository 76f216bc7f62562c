"""Parameter groups of an optimizer as they were, beside those that people have added since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, final

from torch import Tensor
from torch.optim import Optimizer

from compressm.errors import OptimizerError
from compressm.writeback.contents import Contents, adopted, refill_


class LateParameter(NamedTuple):
    """What an optimizer has got since: it stays, trainable or not, with its state if it has one."""

    tensor: Tensor
    trainable: bool
    state: Any


@final
class SavedGroups:
    """Which parameter groups there are, and all that they say but their parameters.

    Args:
        optimizer: whose groups.
        copied: what `copied` returned in another process; the groups say that, then, and None is
            for what they say now.

    Raises:
        OptimizerError: the optimizer has fewer groups than were copied.
    """

    def __init__(
        self, optimizer: Optimizer, copied: Sequence[dict[str, Any]] | None = None
    ) -> None:
        self.optimizer = optimizer
        groups = list(optimizer.param_groups)
        if copied is not None:
            _require(optimizer, len(copied))
            groups = groups[: len(copied)]
        self._groups: list[dict[str, Any]] = groups
        options = [options_of(group) for group in groups]
        self._said = Contents(options if copied is None else adopted(options, list(copied)))

    def copied(self) -> list[dict[str, Any]]:
        """What they say now, with values that do not change when theirs do."""
        copies: list[dict[str, Any]] = self._said.copied()
        return copies

    def here(self) -> list[dict[str, Any]]:
        """These groups among those that the optimizer has now.

        Raises:
            OptimizerError: some are gone, and nothing says which.
        """
        now = list(self.optimizer.param_groups)
        present = {id(group) for group in now}
        if all(id(group) in present for group in self._groups):
            return self._groups
        # The optimizer has loaded a state since, which makes new dicts of all groups.
        _require(self.optimizer, len(self._groups))
        return now[: len(self._groups)]

    def late(
        self, members: Iterable[Iterable[Tensor]], then: Mapping[int, Tensor]
    ) -> list[LateParameter]:
        """Parameters that are in groups now and were in none of them then.

        Args:
            members: the parameters that each group had.
            then: by the id of a parameter that is in a place of the model now, what was there.
        """
        self.here()  # or an error, before anything is touched
        ours = {id(p) for parameters in members for p in parameters}
        found = []
        for now in (p for group in self.optimizer.param_groups for p in group["params"]):
            tensor = then.get(id(now), now)
            if id(tensor) not in ours:
                # That of a parameter which a cut has put there has another shape.
                state = self.optimizer.state.get(now) if tensor is now else None
                found.append(LateParameter(tensor, now.requires_grad, state))
        return found

    def put_back(
        self,
        members: Sequence[Sequence[Tensor]],
        copied: Sequence[dict[str, Any]],
        *,
        alone: bool = False,
    ) -> None:
        """The groups are as they were; what people have added since stays, in the group it is in.

        Args:
            members: the parameters that each of them had.
            copied: what `copied` returned at that moment.
            alone: what was added since goes.
        """
        had = {id(p) for parameters in members for p in parameters}
        ours = self.here()
        self._said.put_back(copied)
        for group, parameters, options in zip(ours, members, self._said.value, strict=True):
            added = [p for p in group["params"] if id(p) not in had and not alone]
            refill_(group["params"], [*parameters, *added])
            _say(group, options)
        known = {id(group) for group in ours}
        for group in list(self.optimizer.param_groups):
            if id(group) in known:
                continue
            refill_(group["params"], [p for p in group["params"] if id(p) not in had and not alone])
            if not group["params"]:
                _remove(self.optimizer.param_groups, group)


def _say(group: dict[str, Any], options: dict[str, Any]) -> None:
    """Let a group say just this of all but its parameters, in the order it has."""
    for key in group.keys() - options.keys() - {"params"}:
        del group[key]
    group.update(options)


def _remove(groups: list[dict[str, Any]], group: dict[str, Any]) -> None:
    groups[:] = [other for other in groups if other is not group]


def _require(optimizer: Optimizer, count: int) -> None:
    if len(optimizer.param_groups) < count:
        raise OptimizerError(
            f"optimizer: {type(optimizer).__name__} has {len(optimizer.param_groups)} parameter "
            f"groups, and had {count} before the cut that is to be undone: groups can be added "
            "meanwhile, not taken away; put them back with add_param_group. Nothing was changed"
        )


def options_of(group: dict[str, Any]) -> dict[str, Any]:
    """All that a parameter group says but its parameters."""
    return {key: value for key, value in group.items() if key != "params"}
