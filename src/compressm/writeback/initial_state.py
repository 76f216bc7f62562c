"""Optimizer state as before the first step, for a parameter whose old state cannot follow."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.errors import OptimizerError
from compressm.writeback.optimizer_state import Leaf, is_scalar, kind_of, leaves, replaced
from compressm.writeback.state_keys import Kind

# What torch's own optimizers start from, by the keys of their states: 0, 1 or the learning rate.
_STARTS = {
    torch.optim.Adam: ("step exp_avg exp_avg_sq max_exp_avg_sq", "", ""),
    torch.optim.AdamW: ("step exp_avg exp_avg_sq max_exp_avg_sq", "", ""),
    torch.optim.NAdam: ("step exp_avg exp_avg_sq", "mu_product", ""),
    torch.optim.RAdam: ("step exp_avg exp_avg_sq", "", ""),
    torch.optim.Adamax: ("step exp_avg exp_inf", "", ""),
    torch.optim.Adadelta: ("step square_avg acc_delta", "", ""),
    torch.optim.ASGD: ("step ax", "mu", "eta"),
    torch.optim.RMSprop: ("step square_avg grad_avg momentum_buffer", "", ""),
    torch.optim.Rprop: ("step prev", "", "step_size"),
    torch.optim.Muon: ("momentum_buffer", "", ""),
    torch.optim.Adafactor: ("step row_var col_var variance", "", ""),
}
_SQUARES = {Kind.SQUARE, Kind.MAGNITUDE}


def initial_state(
    owner: Optimizer,
    name: str,
    old: nn.Parameter,
    new: nn.Parameter,
    state: dict[str, Any],
    copies: frozenset[str],
) -> dict[str, Any] | None:
    """The state with which the optimizer begins the new parameter (None: no entry).

    Without an entry the next step makes it, by torch's convention. It is made here where that
    would not do:

    - sharded checkpoints of torch have a place for every state, so those of torch's own optimizers
      are written down (a step from them is the step that would have made them);
    - fused SGD cannot mix parameters with and without momentum (a first step from zero momentum
      is the same as one without, if there is no dampening);
    - optimizers that fill their state when they are built never do it again;
    - where a state counts no steps (schedule-free counts in the group), the bias correction of the
      squares would go on as if they were old, and the first steps from zero be many times too
      long: squares start at their mean before the cut.

    Args:
        owner: the optimizer.
        name: of the parameter, for messages.
        old, new: the parameter.
        state: of the old one; not empty.
        copies: keys of copies of the weights, as `kind_of` takes them.

    Raises:
        OptimizerError: only building the optimizer makes a state, and there is no telling which.
    """
    if isinstance(owner, torch.optim.SGD) and state.get("momentum_buffer") is not None:
        dampened = any(group["dampening"] and not group["fused"] for group in owner.param_groups)
        return None if dampened else {"momentum_buffer": torch.zeros_like(new)}
    if isinstance(owner, torch.optim.Adagrad):
        start = owner.defaults["initial_accumulator_value"]
        return {
            "step": torch.zeros_like(state["step"]),
            "sum": torch.full_like(new, start, dtype=state["sum"].dtype),
        }
    if type(owner) in _STARTS:
        return _as_torch_starts(owner, old, new, state)
    built, counts = _fills_state_when_built(type(owner)), _counts(old, state)
    kinds = {leaf: kind_of(owner, leaf, old.shape, copies) for leaf in leaves(state)}
    if not built and (counts or not _SQUARES & set(kinds.values())):
        return None
    news: dict[tuple[Any, ...], Tensor] = {}
    for leaf, kind in kinds.items():
        if leaf.tensor is old:
            news[leaf.path] = new
        elif leaf.tensor is not None and is_scalar(leaf, old.shape):
            news[leaf.path] = torch.zeros_like(leaf.tensor)
        elif leaf.tensor is None or kind is None:
            if not built:
                return None
            raise OptimizerError(
                f"optimizer: {type(owner).__name__}.{leaf.name} cannot follow a change of "
                f"shape of {name}, and the optimizer makes its state only when it is "
                "built; cut before it is built, or give a new one to every part of the run"
            )
        elif kind is Kind.WEIGHT:
            news[leaf.path] = new.detach().to(leaf.tensor.dtype).clone()
        else:
            size = 0.0 if counts or kind not in _SQUARES else _mean(leaf.tensor)
            news[leaf.path] = torch.full_like(new, size, dtype=leaf.tensor.dtype)
    numbers = {key: 0 for key, value in state.items() if type(value) is int}
    return {**replaced(state, news), **numbers}


def _as_torch_starts(
    owner: Optimizer, old: nn.Parameter, new: nn.Parameter, state: dict[str, Any]
) -> dict[str, Any] | None:
    """None where something else lies there too, put by a wrapper, or the parameter is complex."""
    zeros, ones, rates = (set(keys.split()) for keys in _STARTS[type(owner)])
    if new.is_complex() or not state.keys() <= zeros | ones | rates:
        return None
    groups = (group for group in owner.param_groups if any(p is old for p in group["params"]))
    group = next(groups, owner.defaults)
    out = {}
    for key, value in state.items():
        start = 0.0 if key in zeros else 1.0 if key in ones else float(group["lr"])
        if is_scalar(Leaf((key,), value), old.shape):
            out[key] = torch.full_like(value, start)
        else:  # Adafactor's rows and columns have one entry along the other axis
            axes = zip(value.shape, old.shape, new.shape, strict=True)
            shape = [size if kept == before else 1 for kept, before, size in axes]
            out[key] = new.detach().new_full(shape, start)
    return out


def _counts(old: nn.Parameter, state: dict[str, Any]) -> bool:
    """Whether any number beside its tensors has moved."""
    scalars = [leaf.tensor for leaf in leaves(state) if is_scalar(leaf, old.shape)]
    return any(bool(t) for t in scalars if t is not None and t.numel()) or any(
        value for value in state.values() if type(value) in (int, float)
    )


def _mean(tensor: Tensor) -> float:
    mean = tensor.mean()
    whole = getattr(mean, "full_tensor", None)  # of shards: of all of them, on every rank
    return float(mean if whole is None else whole())


def _fills_state_when_built(kind: type) -> bool:
    """Whether the constructor of a third party's optimizer writes into `state`."""
    try:
        return re.search(r"\.state\[", inspect.getsource(kind.__init__)) is not None  # type: ignore[misc]
    except (OSError, TypeError):  # no source to read: torch's convention is what most follow
        return False
