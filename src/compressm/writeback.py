"""The only place that changes models and optimizers.

All that can fail is done first: checks, new parameters, new optimizer state. What remains is
a few assignments, so an error leaves model and optimizers as they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.edits import Edit, Transport
from compressm.errors import InputError, OptimizerError

# Optimizer state by what it estimates: gradients (they follow the basis) or their squares.
FIRST_MOMENTS = frozenset({"exp_avg", "momentum_buffer", "grad_avg", "exp_avg_slow", "momentum"})
SECOND_MOMENTS = frozenset(
    {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_avg_var"}
)


@dataclass
class _Change:
    """One parameter about to be replaced, and its state in the optimizer that owns it."""

    module: nn.Module
    name: str
    old: nn.Parameter
    new: nn.Parameter
    owners: list[Optimizer] = field(default_factory=list)
    states: list[dict[str, Any] | None] = field(default_factory=list)


def as_optimizers(optimizer: Optimizer | Iterable[Optimizer] | None) -> list[Optimizer]:
    """One, several or no optimizers as a list; objects that wrap one are unwrapped.

    Raises:
        OptimizerError: not an optimizer, or one whose state is not kept per parameter (LBFGS).
    """
    if optimizer is None:
        return []
    several = isinstance(optimizer, Iterable) and not hasattr(optimizer, "param_groups")
    listed: list[Optimizer] = list(optimizer) if several else [optimizer]  # type: ignore[arg-type, list-item]
    for item in listed:
        if not hasattr(item, "param_groups") or not hasattr(item, "state"):
            raise OptimizerError(
                f"optimizer: expected a torch optimizer, a sequence of them or None, got {item!r}"
            )
        if isinstance(item, torch.optim.LBFGS):
            raise OptimizerError(
                "optimizer: LBFGS keeps one flat history of all parameters, which cannot follow "
                "a change of shape; cut between two runs of it, with a new LBFGS for each"
            )
    return listed


@torch.no_grad()
def commit_(
    model: nn.Module,
    edits: Sequence[Edit],
    optimizers: Sequence[Optimizer] = (),
    *,
    transport: str = "project",
) -> None:
    """Apply all edits to the live model and optimizers, or none.

    Every edited parameter is replaced by a **new** `nn.Parameter` (an old autograd graph stays
    valid), in all modules that share it and in all parameter groups that hold it. Optimizer state
    follows by the edit's transport; where no rule holds, or with `transport="reset"`, the state of
    that parameter starts anew, its own step count included, so that bias correction stays right.
    Accumulated gradients follow as first moments do. Groups, schedules and all other state stay.

    Raises:
        OptimizerError: an edited trainable parameter is in none of the given optimizers.
        InputError: two edits change the same parameter (it is shared by two layers).
    """
    if transport not in ("project", "reset"):
        raise InputError(f"transport: expected 'project' or 'reset', got {transport!r}")
    unknown: set[str] = set()
    changes = [
        change for edit in edits for change in _prepare(edit, optimizers, transport, unknown)
    ]
    _check_ownership(model, changes, optimizers)
    replaced = {id(change.old): change.new for change in changes}

    # From here on nothing can fail.
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in replaced:
                module._parameters[name] = replaced[id(parameter)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [replaced.get(id(p), p) for p in group["params"]]
    for change in changes:
        for owner, state in zip(change.owners, change.states, strict=True):
            owner.state.pop(change.old, None)
            if state is not None:
                owner.state[change.new] = state
    if unknown:
        warnings.warn(
            "optimizer state that no transport rule covers was reset for the cut parameters: "
            + ", ".join(sorted(unknown)),
            stacklevel=3,
        )


@torch.no_grad()
def resize_(model: nn.Module, module: nn.Module, name: str, shape: torch.Size) -> None:
    """Give one parameter another shape (its values are lost), wherever the model shares it."""
    old = module._parameters[name]
    if old is None or old.shape == shape:
        return
    new = nn.Parameter(old.new_zeros(shape), requires_grad=old.requires_grad)
    for other in model.modules():
        for key, parameter in other._parameters.items():
            if parameter is old:
                other._parameters[key] = new


def _prepare(
    edit: Edit, optimizers: Sequence[Optimizer], transport: str, unknown: set[str]
) -> list[_Change]:
    olds = [edit.module._parameters[name] for name in edit.names]
    changes = []
    for name, old, value in zip(edit.names, olds, edit.values, strict=True):
        assert old is not None  # checked by Edit
        new = nn.Parameter(
            value.to(device=old.device, dtype=old.dtype).contiguous().clone(),
            requires_grad=old.requires_grad,
        )
        new.__dict__.update(old.__dict__)  # marks such as `_no_weight_decay` stay
        changes.append(_Change(edit.module, name, old, new))
    if all(change.old.grad is not None for change in changes):
        moved = edit.transport.first(tuple(c.old.grad for c in changes))  # type: ignore[misc]
        for change, grad in zip(changes, moved or (), strict=False):
            change.new.grad = grad
    for optimizer in optimizers:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        mine = [change for change in changes if id(change.old) in held]
        # A change of basis mixes the parameters of its group, so it needs the state of them all.
        whole = len(mine) == len(changes) or edit.transport.exact
        states = [optimizer.state.get(change.old) or {} for change in mine]
        rule = edit.transport if whole and transport == "project" else None
        moved_states = _transport_states(optimizer, rule, mine, states, unknown)
        for change, state in zip(mine, moved_states, strict=True):
            change.owners.append(optimizer)
            change.states.append(state)
    return changes


def _transport_states(
    optimizer: Optimizer,
    rule: Transport | None,
    changes: Sequence[_Change],
    states: Sequence[dict[str, Any]],
    unknown: set[str],
) -> list[dict[str, Any] | None]:
    """The optimizer state of a group in the reduced coordinates (None: no state to keep)."""
    per_parameter = {
        key
        for change, state in zip(changes, states, strict=True)
        for key, value in state.items()
        if isinstance(value, Tensor) and value.shape == change.old.shape and value.ndim > 0
    }
    foreign = {
        key
        for change, state in zip(changes, states, strict=True)
        for key, value in state.items()
        if isinstance(value, Tensor) and value.numel() > 1 and value.shape != change.old.shape
    }
    unknown |= foreign
    moved: dict[str, tuple[Tensor, ...] | None] = {}
    for key in per_parameter if rule is not None else ():
        tensors = tuple(state[key] for state in states if key in state)
        if len(tensors) < len(states):
            moved[key] = None
        elif rule.exact or key in FIRST_MOMENTS:
            moved[key] = rule.first(tensors)
        elif key in SECOND_MOMENTS:
            moved[key] = rule.second(tensors)
        else:
            unknown.add(key)
            moved[key] = None
    keep = not foreign and rule is not None and all(v is not None for v in moved.values())
    out: list[dict[str, Any] | None] = []
    for i, (change, state) in enumerate(zip(changes, states, strict=True)):
        if not state:
            out.append(None)
        elif keep:
            out.append(
                {k: moved[k][i] if k in per_parameter else v for k, v in state.items()}  # type: ignore[index]
            )
        else:
            out.append(_fresh(optimizer, change, state))
    return out


def _fresh(optimizer: Optimizer, change: _Change, state: dict[str, Any]) -> dict[str, Any] | None:
    """State as before the first step.

    No entry at all, which torch's convention makes anew at the next step; Adagrad alone fills its
    state when it is built and never again.
    """
    if not isinstance(optimizer, torch.optim.Adagrad):
        return None
    start = optimizer.defaults["initial_accumulator_value"]
    return {
        "step": torch.zeros_like(state["step"]),
        "sum": torch.full_like(change.new, start, dtype=state["sum"].dtype),
    }


def _check_ownership(
    model: nn.Module, changes: Sequence[_Change], optimizers: Sequence[Optimizer]
) -> None:
    names = {id(p): name for name, p in model.named_parameters()}
    seen: set[int] = set()
    for change in changes:
        name = names.get(id(change.old), change.name)
        if id(change.old) in seen:
            raise InputError(
                f"model: the parameter {name} is shared by two compressible layers; layers with "
                "tied state space parameters cannot be cut separately"
            )
        seen.add(id(change.old))
        if optimizers and change.old.requires_grad and not change.owners:
            raise OptimizerError(
                f"optimizer: {name} is trainable and about to be cut, but no given optimizer holds "
                "it, so it would stop learning; pass every optimizer of the model, or "
                "requires_grad_(False) it"
            )
