"""Which object is where, without values: cheap to remember, enough to undo a cut that failed.

A cut puts new objects in the place of old ones and changes none in place. So a list of what is
where, without any values, takes back all of it, wherever it was when something failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from compressm.distributed.fsdp import ShardRecords, reshard_
from compressm.runtime.randomness import random_states, set_random_states
from compressm.writeback.contents import refill_
from compressm.writeback.optimizer_references import containers
from compressm.writeback.ownership import all_optimizers
from compressm.writeback.sizes import held_configurations
from compressm.writeback.stale_graphs import restore_hooks_
from compressm.writeback.zero_redundancy import is_partitioned, refresh_partition_

_CONTAINERS = (dict, list, set)


class SavedAttributes:
    """The classes and attributes of some objects, and what is in dicts and lists among them.

    What these hold is remembered as the objects that they are, not copied.
    """

    def __init__(self, objects: Iterable[object]) -> None:
        items = [item for item in objects if hasattr(item, "__dict__")]
        self._kinds = [(item, type(item)) for item in items]
        owners = [vars(item) for item in items]
        self._saved = [(attributes, dict(attributes)) for attributes in owners]
        values = (value for attributes in owners for value in attributes.values())
        self._held = [(value, value.copy()) for value in values if isinstance(value, _CONTAINERS)]

    def put_back(self) -> None:
        """Everything is where it was."""
        for item, kind in self._kinds:
            if type(item) is not kind:
                item.__class__ = kind
        for attributes, saved in self._saved:
            refill_(attributes, saved)
        for value, held in self._held:
            refill_(value, held)


class ShallowSnapshot:
    """What a failed cut goes back to.

    That is all attributes of modules (parameters, buffers, hooks, flags, configurations), which
    gradients there are, groups and states of optimizers, random numbers and the number of threads.

    Args:
        model: all its modules are covered.
        optimizers: that hold its parameters, with those inside them.
        generators: further generators of random numbers.
        attributes: dotted names below the model of what configurations say about sizes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer] = (),
        generators: Sequence[torch.Generator] = (),
        attributes: Iterable[str] = (),
    ) -> None:
        self._model, roots, optimizers = model, list(optimizers), all_optimizers(optimizers)
        # Modules around the model may share its configuration, and get the new one as well.
        modules = {id(m): m for m, _, _ in held_configurations(model, list(attributes))}
        modules |= {id(m): m for m in model.modules()}
        self._attributes = SavedAttributes([*modules.values(), *optimizers])
        self._kept = [(container, container.copy()) for container in containers(roots)]
        self._grads = [(parameter, parameter.grad) for parameter in model.parameters()]
        self._owners = optimizers
        self._records = ShardRecords(model)
        self._generators = [(generator, generator.get_state()) for generator in generators]
        self._random, self._threads = random_states(), torch.get_num_threads()

    def put_back(self) -> None:
        """Undo every cut since, and whatever else has been left behind."""
        reshard_(self._model)
        self._records.put_back()
        self._attributes.put_back()
        for parameter, grad in self._grads:
            if parameter.grad is not grad:
                parameter.grad = grad
        for parameter in self._model.parameters():
            restore_hooks_(parameter)
        for container, saved in self._kept:
            refill_(container, saved)
        for owner in self._owners:
            if is_partitioned(owner):
                refresh_partition_(owner)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        for generator, state in self._generators:
            generator.set_state(state)
        set_random_states(self._random)
