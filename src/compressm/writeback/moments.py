"""How optimizer state follows parameters that change shape; nothing is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.edits import Transport

# Optimizer state by what it estimates: gradients (they follow the basis), their squares, or the
# roots of those.
FIRST_MOMENTS = frozenset(
    {"exp_avg", "momentum_buffer", "grad_avg", "exp_avg_slow", "momentum", "prev"}
)
SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_avg_var"})
MAGNITUDES = frozenset({"exp_inf"})
KNOWN = FIRST_MOMENTS | SECOND_MOMENTS | MAGNITUDES


@dataclass
class Change:
    """One parameter about to be replaced, and its state in the optimizer that owns it."""

    name: str
    old: nn.Parameter
    new: nn.Parameter
    owners: list[Optimizer] = field(default_factory=list)
    states: list[dict[str, Any] | None] = field(default_factory=list)


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
    unruled = set() if rule is None or rule.exact else per_parameter - KNOWN
    unknown |= {f"{type(optimizer).__name__}.{key}" for key in foreign | unruled}
    keep = rule is not None and not foreign
    moved: dict[str, dict[int, Tensor] | None] = {}
    if rule is not None and keep:
        shapes = [change.old.shape for change in changes]
        moved = {key: _move(rule, key, states, shapes) for key in sorted(per_parameter)}
    keep = keep and all(tensors is not None for tensors in moved.values())
    out: list[dict[str, Any] | None] = []
    for i, (change, state) in enumerate(zip(changes, states, strict=True)):
        if not state:
            out.append(None)
        elif keep:
            mine = {key: tensors[i] for key, tensors in moved.items() if tensors and i in tensors}
            out.append({**state, **mine})
        else:
            out.append(_fresh(optimizer, change, state))
    return out


def _move(
    rule: Transport, key: str, states: Sequence[dict[str, Any]], shapes: Sequence[torch.Size]
) -> dict[int, Tensor] | None:
    """One kind of state of a group in the reduced coordinates, by position in the group.

    None where no rule covers it. A change of basis mixes the group and needs it of every member.
    """
    having = [
        i
        for i, (state, shape) in enumerate(zip(states, shapes, strict=True))
        if isinstance(state.get(key), Tensor) and state[key].shape == shape
    ]
    tensors = tuple(states[i][key] for i in having)
    moved: tuple[Tensor, ...] | None = None
    whole = len(having) == len(states)
    if rule.exact or (whole and key in FIRST_MOMENTS):
        moved = rule.first(tensors)
    elif whole and key in SECOND_MOMENTS:
        moved = rule.second(tensors)
    elif whole and key in MAGNITUDES:
        squares = rule.second(tuple(t.square() for t in tensors))
        moved = None if squares is None else tuple(t.sqrt() for t in squares)
    return None if moved is None else dict(zip(having, moved, strict=True))


def _fresh(optimizer: Optimizer, change: Change, state: dict[str, Any]) -> dict[str, Any] | None:
    """State as before the first step.

    No entry at all, which torch's convention makes anew at the next step, but for two: Adagrad
    fills its state when it is built and never again, and fused SGD cannot mix parameters with and
    without momentum (a first step from zero momentum is the same as one without).
    """
    if isinstance(optimizer, torch.optim.SGD) and state.get("momentum_buffer") is not None:
        return {"momentum_buffer": torch.zeros_like(change.new)}
    if not isinstance(optimizer, torch.optim.Adagrad):
        return None
    start = optimizer.defaults["initial_accumulator_value"]
    return {
        "step": torch.zeros_like(state["step"]),
        "sum": torch.full_like(change.new, start, dtype=state["sum"].dtype),
    }
