"""Apply edits to live models and optimizers.

All that can fail is done first: checks, new parameters, new optimizer state. What remains is
a few assignments, so an error leaves model and optimizers as they were. Should one of these fail
after all (an optimizer of one's own that refuses), `ShallowSnapshot` takes back those before it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from compressm.distributed.fsdp import ShardStorage, is_shard, reshard_, sharded_like, unsharded
from compressm.edits import Edit, Growth, Reset, Selection, Transport
from compressm.errors import InputError
from compressm.runtime.interrupts import held
from compressm.writeback.averages import Averages
from compressm.writeback.elsewhere import Elsewhere
from compressm.writeback.leading import Leading
from compressm.writeback.optimizer_references import repoint_, require_nothing_outside
from compressm.writeback.ownership import all_optimizers, parameter_ids, require_held
from compressm.writeback.shallow_snapshot import ShallowSnapshot
from compressm.writeback.sizes import SizeAttributes
from compressm.writeback.stale_graphs import warn_of_stale_gradients_
from compressm.writeback.successor import carry_marks, share_like_, successor, warn_of_hooks
from compressm.writeback.transport import ParameterChange, StateCarrier
from compressm.writeback.zero_redundancy import gathered, partitioned_by_inner

# Optimizer moments follow the change of basis, start anew, or keep their first entries.
TRANSPORTS = ("project", "reset", "slice")


@torch.no_grad()
def commit_(
    model: nn.Module,
    edits: Sequence[Edit],
    optimizers: Sequence[Optimizer] = (),
    *,
    transport: str = "project",
    averages: Averages | None = None,
) -> None:
    """Apply all edits to the live model, its optimizers and averaged copies, or none.

    See `prepared`, and `require_owned` for what is refused.
    """
    everything = nn.ModuleList([model, *([] if averages is None else averages.modules)])
    replaced = [parameter for edit in edits for parameter in edit.olds]
    elsewhere = Elsewhere.of(replaced, optimizers, everything)
    require_owned(model, edits, optimizers, elsewhere)
    apply = prepared(model, edits, optimizers, transport=transport, averages=averages)
    before = ShallowSnapshot(everything, optimizers)
    try:
        apply()
    except BaseException:
        with held():
            before.put_back()
        raise


@torch.no_grad()
def prepared(
    model: nn.Module,
    edits: Sequence[Edit],
    optimizers: Sequence[Optimizer] = (),
    *,
    transport: str = "project",
    averages: Averages | None = None,
) -> Callable[[], None]:
    """Do all that can fail of applying the edits; what is returned applies them.

    Every edited parameter is replaced by a **new** `nn.Parameter` (an old autograd graph stays
    valid), in all modules that share it and wherever optimizers hold it, those inside the given
    ones too. Their states follow by the edit's transport and by what they are (`optimizer_state`);
    where no rule holds, or with `transport="reset"`, the state of that parameter starts anew, its
    own step count included, so that bias correction stays right. With `transport="slice"` moments
    keep their first entries in the old basis, as published code has it.
    Accumulated gradients follow as first moments do. Groups, schedules and all other state stay.
    Compiled code of the process is dropped: it was made for the old sizes, and after eight
    recompilations of one function `torch.compile` would go on in eager mode without an error.
    Under `fully_shard` values are given whole and stored as shards; optimizer states are gathered
    one edit at a time.

    Nothing is refused here that `require_owned` refuses; ask it before.

    Raises:
        OptimizerError: only building an optimizer makes the state that a new parameter needs.
    """
    if transport not in TRANSPORTS:
        raise InputError(f"transport: expected one of {', '.join(TRANSPORTS)}, got {transport!r}")
    reshard_(model)
    owners = all_optimizers(optimizers)
    carriers = [StateCarrier(owner) for owner in owners]
    partitions = partitioned_by_inner(owners)
    storages: list[ShardStorage] = []
    changes = [
        change
        for edit in edits
        for change in _prepare(model, edit, carriers, partitions, transport, storages)
    ]
    replaced = {id(change.old): change.new for change in changes}
    modules = list(model.modules())
    if averages is not None and edits:
        for edit in edits:
            replaced |= {id(old): new for old, new in averages.follow(model, edit)}
        modules += [module for copy in averages.modules for module in copy.modules()]
    named_olds = [(_name(model, change.old, change.name), change.old) for change in changes]
    warn_of_hooks(named_olds)
    unknown = {name for carrier in carriers for name in carrier.unknown}
    if unknown:
        warnings.warn(
            "optimizer state that no transport rule covers is reset for the cut parameters: "
            + ", ".join(sorted(unknown)),
            stacklevel=4,
        )
    settings = SizeAttributes()
    for edit in edits:
        if edit.attributes:
            settings.add(edit.module, edit.attributes)
            for copied in averages.counterparts(model, edit) if averages else ():
                settings.add(copied, edit.attributes)
    mine = [(name, old) for name, old in named_olds if not is_shard(old)]
    return partial(_apply, modules, optimizers, changes, replaced, storages, settings, mine)


def _apply(
    modules: Sequence[nn.Module],
    optimizers: Sequence[Optimizer],
    changes: Sequence[ParameterChange],
    replaced: Mapping[int, nn.Parameter],
    storages: Sequence[ShardStorage],
    settings: SizeAttributes,
    olds: Sequence[tuple[str, nn.Parameter]],
) -> None:
    if changes and "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    with held():
        settings.put_()
        for module in modules:
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) in replaced:
                    module._parameters[name] = replaced[id(parameter)]
        repoint_(optimizers, replaced)
        for storage in storages:
            storage.install_()
        for change in changes:
            for owner, state in zip(change.owners, change.states, strict=True):
                owner.state.pop(change.old, None)
                if state is not None:
                    owner.state[change.new] = state
        warn_of_stale_gradients_(olds)


def _prepare(
    model: nn.Module,
    edit: Edit,
    carriers: Sequence[StateCarrier],
    partitions: Mapping[int, Any],
    transport: str,
    storages: list[ShardStorage],
) -> list[ParameterChange]:
    changes = []
    for name, old, value in zip(edit.names, edit.olds, edit.values, strict=True):
        if is_shard(old):
            storages.append(ShardStorage(model, old, value))
            new = storages[-1].parameter
            carry_marks(old, new)
        else:
            new = successor(old, value)
        changes.append(ParameterChange(name, old, new, value))
    rule = edit.transport
    follows: Transport | None = rule
    if transport == "reset":
        follows = None
    elif transport == "slice" and not isinstance(rule, (Selection, Growth)):
        follows = Leading([change.new.shape for change in changes])
    driven = [change for change in changes if change.old.grad is not None]
    if driven and (rule.separate or len(driven) == len(changes)):
        grads = tuple(change.old.grad for change in driven if change.old.grad is not None)
        moved_grads = sharded_like(rule.first(unsharded(grads)), grads)
        for change, before, grad in zip(driven, grads, moved_grads or (), strict=False):
            share_like_(before, grad)
            change.new.grad = grad
    for carrier in carriers:
        its = parameter_ids(carrier.owner) | {id(key) for key in carrier.owner.state}
        mine = [change for change in changes if id(change.old) in its]
        states: list[dict[str, Any]] = [carrier.owner.state.get(c.old) or {} for c in mine]
        # A change of basis mixes the parameters of its group, so it needs the state of them all.
        zero = partitions.get(id(carrier.owner))
        if zero is not None and follows is not None and not follows.separate:
            whole_group = parameter_ids(zero)
            mine = [change for change in changes if id(change.old) in whole_group]
            states = gathered(zero, [change.old for change in mine])
        alone = follows is None or follows.separate or len(mine) == len(changes)
        moved = carrier.carried(follows if alone else Reset(), mine, states)
        for change, state in zip(mine, moved, strict=True):
            if id(change.old) in its:
                change.owners.append(carrier.owner)
                change.states.append(state)
    return changes


def require_owned(
    model: nn.Module,
    edits: Sequence[Edit],
    optimizers: Sequence[Optimizer],
    elsewhere: Elsewhere,
) -> None:
    """Refuse edits that the optimizers could not follow.

    Raises:
        OptimizerError: an edited trainable parameter is in none of the given optimizers, another
            live optimizer holds an edited one, or one of them keeps what cannot follow.
        InputError: two edits change the same parameter (it is shared by two layers), or a module
            outside of the model shares one.
    """
    named: dict[int, tuple[str, nn.Parameter]] = {}
    for edit in edits:
        for key, old in zip(edit.names, edit.olds, strict=True):
            name = _name(model, old, key)
            if id(old) in named:
                raise InputError(
                    f"model: the parameter {name} is shared by two compressible layers; layers "
                    "with tied state space parameters cannot be cut separately"
                )
            named[id(old)] = (name, old)
    require_held(named.values(), optimizers)
    elsewhere.require_none(named.values())
    require_nothing_outside(named.values(), optimizers)


def _name(model: nn.Module, parameter: nn.Parameter, default: str) -> str:
    named = model.named_parameters()
    return next((name for name, p in named if p is parameter), default)
