"""User code that looks at a model in mid-training, and must leave no trace in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.errors import InputError
from compressm.runtime.interrupts import held
from compressm.runtime.randomness import random_states, set_random_states
from compressm.storage.bits import checksum, same, same_bits, tensors_in
from compressm.writeback.companions import Companion
from compressm.writeback.ownership import all_optimizers, named_optimizers
from compressm.writeback.saved_groups import SavedGroups
from compressm.writeback.saved_places import put_

# Changed parameters that an error names.
_NAMED = 3


@contextmanager
def undisturbed(
    models: Sequence[nn.Module],
    optimizers: Sequence[Optimizer] = (),
    companions: Sequence[Companion] = (),
    *,
    may_train: bool = False,
    argument: str = "evaluate",
    grads_aside: bool = False,
) -> Iterator[None]:
    """All that a `Snapshot` covers is afterwards as it was, also where the body raises.

    Put back from copies: random number generators, training and `requires_grad` flags, which
    tensor is where, buffers, gradients, options of parameter groups, and companions. Parameters
    and optimizer states would be a copy of the whole training, so they are only summed up: a
    metric may swap averaged weights in and out again, but not train. Parameters of an optimizer
    with `eval()` and `train()` (schedule-free) are copied too: these move them there and back, to
    within rounding.

    Args:
        models: the live model, in its wrapper if it has one, and averaged copies.
        optimizers, companions: as of the snapshot.
        may_train: do not look at parameters and optimizer states; a snapshot puts them back.
        argument: how the error calls the user's code.
        grads_aside: the body sees no gradients, so that none has to be copied.

    Raises:
        InputError: parameters or optimizer states have other values afterwards.
    """
    before = _Remembered(models, optimizers, companions, grads_aside)
    sums = {} if may_train else before.summed_up()
    try:
        if grads_aside:
            before.put_grads_aside()
        yield
    finally:
        with held():
            before.put_back()
    if not may_train:
        _require_same(sums, before.summed_up(), argument)


class _Remembered:
    """What can be remembered of a training run without copying it."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        companions: Sequence[Companion],
        grads_aside: bool,
    ) -> None:
        self._random = random_states()
        modules = [module for model in models for module in model.modules()]
        self._flags = [(module, module.training) for module in modules]
        places: list[dict[str, Any]] = [
            place for m in modules for place in (m._parameters, m._buffers)
        ]
        self._places = [(place, dict(place)) for place in places]
        held = {id(t): t for _, here in self._places for t in here.values() if t is not None}
        self._parameters = {
            _name(name, i): p
            for i, model in enumerate(models)
            for name, p in model.named_parameters()
        }
        own = {id(p) for p in self._parameters.values()}
        self._buffers = [(t, t.detach().clone()) for t in held.values() if id(t) not in own]
        self._grads = [
            (p, p.requires_grad, p.grad, p.grad.detach().clone() if p.grad is not None else None)
            if not grads_aside
            else (p, p.requires_grad, p.grad, None)
            for p in self._parameters.values()
        ]
        self._groups = [
            (groups, [list(group["params"]) for group in groups.here()], groups.copied())
            for groups in map(SavedGroups, all_optimizers(optimizers))
        ]
        self._switched = [
            (p, p.detach().clone())
            for o in all_optimizers(optimizers)
            if _switches(o)
            for group in o.param_groups
            for p in group["params"]
        ]
        self._companions = [(c, copy.deepcopy(c.state_dict())) for c in companions]
        self._optimizers = optimizers

    def put_grads_aside(self) -> None:
        """Parameters have no gradients until `put_back`."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def summed_up(self) -> dict[str, Tensor]:
        """A checksum of each parameter, and of each optimizer's state."""
        sums = {name: checksum([p]) for name, p in self._parameters.items()}
        for i, (name, owner) in enumerate(named_optimizers(self._optimizers)):
            states = checksum(tensors_in(list(owner.state.values())))
            sums[f"the state of optimizer {i} ({name})"] = states
        return sums

    @torch.no_grad()
    def put_back(self) -> None:
        """Put back what was copied, part by part, each also where one before it has failed."""
        with ExitStack() as parts:  # from the last to the first
            parts.callback(set_random_states, self._random)
            for companion, state in reversed(self._companions):
                parts.callback(_load_if_changed, companion, state)
            for groups, members, copied in reversed(self._groups):
                parts.callback(groups.put_back, members, copied, alone=True)
            parts.callback(self._put_back_values)
            for parameter, trainable, grad, kept in reversed(self._grads):
                parts.callback(_put_back_grad, parameter, trainable, grad, kept)
            for module, training in reversed(self._flags):
                parts.callback(setattr, module, "training", training)
            for place, tensors in reversed(self._places):
                for name, tensor in reversed(tensors.items()):
                    parts.callback(put_, place, name, tensor)

    def _put_back_values(self) -> None:
        for tensor, values in (*self._buffers, *self._switched):
            if not same_bits(tensor, values):
                tensor.copy_(values)


def _put_back_grad(
    parameter: Tensor, trainable: bool, grad: Tensor | None, kept: Tensor | None
) -> None:
    if parameter.requires_grad != trainable:
        parameter.requires_grad_(trainable)
    if parameter.grad is not grad:
        parameter.grad = grad
    if grad is not None and kept is not None and not same_bits(grad, kept):
        grad.copy_(kept)


def _load_if_changed(companion: Companion, state: Any) -> None:
    if not same(companion.state_dict(), state):
        companion.load_state_dict(state)


def _switches(optimizer: Optimizer) -> bool:
    """Whether it moves the weights between those for training and those for evaluation."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def _require_same(before: dict[str, Tensor], now: dict[str, Tensor], argument: str) -> None:
    changed = [name for name, total in before.items() if not torch.equal(now[name], total)]
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise InputError(
            f"{argument}: it changed {', '.join(changed[:_NAMED])}{more}; it must leave "
            "parameters and optimizer states as they are: train a copy.deepcopy(model) in it"
        )


def _name(name: str, model: int) -> str:
    """As the bare model calls it; a compiled or wrapped one has longer names."""
    bare = name.replace("_orig_mod.", "").removeprefix("module.")
    return f"ema[{model - 1}].{bare}" if model else bare
