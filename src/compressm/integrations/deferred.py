"""A `Compressor` for trainers that make the optimizer and the schedulers themselves, and late."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from compressm.compressor import Compressor
from compressm.distributed.ddp import find_live_wrapper
from compressm.engine.saved_state import entry
from compressm.errors import InputError
from compressm.events import Event
from compressm.integrations.keywords import sorted_keywords
from compressm.runtime.living import living
from compressm.writeback import as_optimizers
from compressm.writeback.companions import Companion
from compressm.writeback.ownership import all_optimizers


class DeferredCompressor:
    """Settings first, model and optimizers when training starts; one for the life of a callback.

    A trainer may start several times. With the same model the compressor goes on where it was, also
    where the trainer counts its steps from 0 again; with another model it starts anew.

    Args:
        target: attribute path of the part of the model to compress; None takes the model itself.
        keywords: of `compressm.Compressor`. `data` are read here, once.

    Attributes:
        compressor: from `start` on.

    Raises:
        InputError: a keyword that `Compressor` does not have, one that is missing, or a value that
            can be refused without a model.
    """

    def __init__(self, *, target: str | None = None, **keywords: Any) -> None:
        self._settings, self._others = sorted_keywords(keywords)
        self.compressor: Compressor | None = None
        self._target = target
        self._part: nn.Module | None = None
        self._count = self._ahead = 0

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return [] if self.compressor is None else self.compressor.events

    def check(self, model: nn.Module, optimizer: Any = None) -> None:
        """Refuse what `start` would refuse; from here on the model loads smaller states."""
        part = self.part_of(model)
        others = {**self._others, "log": None}  # no file is begun
        Compressor(part, optimizer, **others, **self._settings.keywords, wrapper=wrapper_of(part))

    def start(
        self,
        model: nn.Module,
        optimizers: Any,
        companions: Sequence[Companion],
        *,
        count: int,
        restored: Mapping[str, Any] | None = None,
        ema: Sequence[nn.Module] = (),
        wrapper: nn.Module | None = None,
    ) -> Compressor:
        """Make the compressor; model and optimizers are as a checkpoint, if any, has them.

        Args:
            model, optimizers, wrapper: see `compressm.Compressor`.
            companions: of the guard, if there is one, beside its own.
            count: the trainer's optimizer steps so far.
            restored: what `state_dict` gave, out of the checkpoint that model and trainer were
                loaded from; empty if that checkpoint had none, None without a checkpoint. Without
                its "count" the trainer's count is not that of the checkpoint.
            ema: averaged copies of the part that is compressed, beside the user's own.
        """
        part, settings = self.part_of(model), self._settings
        state, self._ahead = self._where_it_was(part, count, restored)
        guard = settings.guard
        if guard is not None:
            guard = replace(guard, companions=[*guard.companions, *companions])
        settings = replace(settings, guard=guard, ema=[*settings.ema, *ema])
        given = as_optimizers(optimizers)
        # What would undo a pending cut knows the optimizers by their place, so no others then.
        pending = state is not None and _has_pending(state)
        self.compressor = Compressor(
            part,
            given if pending else [*given, *_earlier(part, given)],
            **self._others,
            **settings.keywords,
            wrapper=wrapper,
        )
        if state is not None:
            self.compressor.load_state_dict(state)
        self._part, self._count = part, count
        return self.compressor

    def _where_it_was(
        self, part: nn.Module, count: int, restored: Mapping[str, Any] | None
    ) -> tuple[Mapping[str, Any] | None, int]:
        """A state to go on from, and how far the compressor's steps are ahead of the trainer's."""
        if restored is not None:
            state = restored.get("compressor")
            count = restored.get("count", count)
            return state, 0 if state is None else entry(state, "step", int) - count
        if self.compressor is None:
            return None, 0
        if part is not self._part:
            return None, -count
        state = self.compressor.state_dict()
        return state, state["step"] - (self._count if count >= self._count else count)

    def step(self, count: int) -> Event | None:
        """Cut if the optimizer step that was just made is due; `count` is the trainer's."""
        if self.compressor is None or count == self._count:
            return None  # a batch whose gradients are accumulated
        self._count = count
        return self.compressor.step(count + self._ahead)

    def finish(self) -> Event | None:
        """The training ends here: judge the cut that waits for its verdict, if there is one."""
        return None if self.compressor is None else self.compressor.finish()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; empty before training."""
        if self.compressor is None:
            return {}
        return {"compressor": self.compressor.state_dict(), "count": self._count}

    def part_of(self, model: nn.Module) -> nn.Module:
        """The part of the model that is compressed.

        Raises:
            InputError: the model has no `target`.
        """
        if self._target is None:
            return model
        try:
            part: nn.Module = attrgetter(self._target)(model)
        except AttributeError as error:
            raise InputError(f"target: {type(model).__name__} has no {self._target}") from error
        return part


def wrapper_of(model: nn.Module) -> nn.Module | None:
    """A DDP around the model, perhaps that of an earlier fit, which the trainer keeps till then."""
    return find_live_wrapper(model) if dist.is_available() and dist.is_initialized() else None


def _earlier(part: nn.Module, optimizers: Sequence[Optimizer]) -> list[Optimizer]:
    """Other optimizers of the parameters: of earlier trainers, whoever keeps them.

    They follow the cuts as well. The trainer has said which ones step; but an earlier trainer may
    still be saved, and a callback that is kept for its events keeps its optimizers.
    """
    live = {id(p) for p in part.parameters()}
    known = {id(group) for o in all_optimizers(optimizers) for group in o.param_groups}

    def holds(group: dict[str, Any]) -> bool:
        return id(group) not in known and any(id(p) in live for p in group["params"])

    def search() -> list[Optimizer]:
        alive = living(Optimizer)
        return [o for o in alive if any(map(holds, getattr(o, "param_groups", ())))]

    if search():
        gc.collect()  # most are garbage, in cycles with their schedulers
    return search()


def _has_pending(state: Mapping[str, Any]) -> bool:
    """Whether a cut waits for its verdict in the saved state of a compressor."""
    return entry(entry(state, "transaction", dict), "trial", bool, False)
