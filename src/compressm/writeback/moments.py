"""How optimizer state follows parameters that change shape; nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.edits import Transport
from compressm.errors import OptimizerError

# Optimizer state by what it estimates: gradients (they follow the basis) or their squares.
FIRST_MOMENTS = frozenset({"exp_avg", "momentum_buffer", "grad_avg", "exp_avg_slow", "momentum"})
SECOND_MOMENTS = frozenset(
    {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_avg_var"}
)


@dataclass
class Change:
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


def transport_states(
    optimizer: Optimizer,
    rule: Transport | None,
    changes: Sequence[Change],
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
    moved = {} if rule is None else _move(rule, per_parameter, states, unknown)
    keep = not foreign and rule is not None and all(v is not None for v in moved.values())
    out: list[dict[str, Any] | None] = []
    for i, (change, state) in enumerate(zip(changes, states, strict=True)):
        if not state:
            out.append(None)
        elif keep:
            mine = {key: tensors[i] for key, tensors in moved.items() if tensors is not None}
            out.append({**state, **mine})
        else:
            out.append(_fresh(optimizer, change, state))
    return out


def _move(
    rule: Transport, keys: set[str], states: Sequence[dict[str, Any]], unknown: set[str]
) -> dict[str, tuple[Tensor, ...] | None]:
    """Each kind of state of a group in the reduced coordinates; None where no rule covers it."""
    moved: dict[str, tuple[Tensor, ...] | None] = {}
    for key in keys:
        tensors = tuple(state[key] for state in states if key in state)
        moved[key] = None
        if len(tensors) < len(states):
            continue
        if rule.exact or key in FIRST_MOMENTS:
            moved[key] = rule.first(tensors)
        elif key in SECOND_MOMENTS:
            moved[key] = rule.second(tensors)
        else:
            unknown.add(key)
    return moved


def _fresh(optimizer: Optimizer, change: Change, state: dict[str, Any]) -> dict[str, Any] | None:
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
