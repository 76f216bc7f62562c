"""Parameters of other shapes: the layer keeps its place, its optimizers and its wrappers.

Weights of another size can arrive on any module at any time. Whatever holds a resized parameter is
looked up among all that is alive, so that none of it goes on with the old one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.distributed.ddp import rebuild_reducer_, require_renewable
from compressm.distributed.fsdp import ShardStorage, is_shard, reshard_
from compressm.errors import OptimizerError
from compressm.runtime.living import living
from compressm.runtime.steady import steady
from compressm.storage.bits import tensors_in
from compressm.writeback.initial_state import initial_state
from compressm.writeback.live_modules import LiveModules
from compressm.writeback.optimizer_references import repoint_
from compressm.writeback.optimizer_state import copies_of_weights
from compressm.writeback.ownership import all_optimizers
from compressm.writeback.successor import carry_marks, successor, warn_of_hooks


@dataclass(frozen=True, eq=False)
class Replacement:
    """A new value, of any shape, for the parameter `name` of `module`; under `fully_shard` whole.

    Attributes:
        anywhere: the value's own device and dtype stay, else they are those of the old parameter.
    """

    module: nn.Module
    name: str
    value: Tensor
    anywhere: bool = False


@steady()
@torch.no_grad()
def replace_(
    replacements: Sequence[Replacement], around: LiveModules, optimizers: Iterable[Optimizer] = ()
) -> None:
    """Give parameters other shapes, or none of them when something is in the way.

    Every module that shares one gets the new one, and so does every optimizer that holds it: the
    given ones, those inside them, and all others that are alive. Optimizer state stays where it has
    the new shape already, because it was loaded before, and starts anew otherwise. Wrappers that
    reduce gradients are renewed.

    Raises:
        DistributedError: a wrapper cannot be renewed, or `fully_shard` keeps its records otherwise.
    """
    modules = {id(r.module): r.module for r in replacements}.values()
    wrappers = {id(w): w for module in modules for w in around.wrappers(module)}
    for wrapper in wrappers.values():
        require_renewable(wrapper)
    new: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    storages: list[ShardStorage] = []
    for each in replacements:
        old = each.module._parameters[each.name]
        if old is None or id(old) in new:
            continue
        if is_shard(old):
            root = nn.ModuleList(around.roots(each.module))
            reshard_(root)
            storages.append(ShardStorage(root, old, each.value))
            carry_marks(old, storages[-1].parameter)
            new[id(old)] = old, storages[-1].parameter
        elif each.anywhere:
            parameter = nn.Parameter(each.value.detach().clone(), requires_grad=old.requires_grad)
            carry_marks(old, parameter)
            new[id(old)] = old, parameter
        else:
            new[id(old)] = old, successor(old, each.value)
    names = {id(r.module._parameters[r.name]): r.name for r in replacements}
    warn_of_hooks((names[number], old) for number, (old, _) in new.items())
    for storage in storages:
        storage.install_()
    _put_(new, around, optimizers)
    for wrapper in wrappers.values():
        rebuild_reducer_(wrapper)


def adopt_(
    modules: Iterable[nn.Module],
    pairs: Iterable[tuple[nn.Parameter, nn.Parameter]],
    around: LiveModules,
) -> None:
    """Follow parameters that somebody else has put in the place of those of `modules`."""
    _put_({id(old): (old, new) for old, new in pairs}, around, ())
    for wrapper in {id(w): w for module in modules for w in around.wrappers(module)}.values():
        rebuild_reducer_(wrapper)


def _put_(
    new: Mapping[int, tuple[nn.Parameter, nn.Parameter]],
    around: LiveModules,
    optimizers: Iterable[Optimizer],
) -> None:
    for module in around.modules:
        for name, parameter in module._parameters.items():
            if id(parameter) in new:
                module._parameters[name] = new[id(parameter)][1]
    everybody = [*optimizers, *living(Optimizer)]
    states = [(o, _states(o, list(new.values()))) for o in all_optimizers(everybody)]
    repoint_(everybody, {number: parameter for number, (_, parameter) in new.items()})
    for optimizer, its in states:
        for old, _ in new.values():
            optimizer.state.pop(old, None)
        optimizer.state.update(its)
    if new and "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _states(
    optimizer: Optimizer, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]]
) -> dict[Tensor, Any]:
    """States of new parameters: those of the old ones where they fit, else fresh ones."""
    states: dict[Tensor, Any] = {}
    copies = None
    for old, new in pairs:
        state = optimizer.state.get(old)
        if state and not _fits(state, old.shape, new.shape):
            copies = copies_of_weights(optimizer) if copies is None else copies
            try:
                state = initial_state(optimizer, "a parameter", old, new, state, copies)
            except OptimizerError:  # there is no telling; its own state may be loaded next
                state = None
        if state:
            states[new] = state
    return states


def _fits(state: Any, old: torch.Size, new: torch.Size) -> bool:
    """Whether optimizer state is of the new shape, or says nothing about shapes.

    State that factors a parameter (rows and columns of it, products of its axes) counts too: all
    its lengths are the new ones, and one of them is one that the old shape did not have.
    """
    shapes = [t.shape for t in tensors_in(state) if t.numel() > 1]
    if old == new or not shapes:
        return True
    if any(shape == old for shape in shapes):
        return False
    changed = {length for length, before in zip(new, old, strict=True) if length != before}
    lengths = {length for shape in shapes for length in shape}
    return lengths <= {1, *new} and bool(lengths & changed)
