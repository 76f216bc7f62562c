"""A `Compressor` for trainers that make the optimizer and the schedulers themselves, and late."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

from compressm.calibration import calibration_of
from compressm.compressor import Compressor
from compressm.errors import InputError
from compressm.events import Event
from compressm.guard import Companion, Guard


class LateCompressor:
    """Settings first, model and optimizers when training starts.

    Args:
        target: attribute path of the part of the model to compress; None takes the model itself.
        guard, log, settings: keywords of `compressm.Compressor`. `data` are read here, once, also
            when several compressors are made of them.

    Attributes:
        compressor: from `start` on.
    """

    def __init__(
        self,
        *,
        target: str | None = None,
        guard: Guard | None = None,
        log: str | Path | Callable[[Event], None] | None = None,
        **settings: Any,
    ) -> None:
        self.compressor: Compressor | None = None
        self._target, self._guard, self._log = target, guard, log
        how = (settings.pop(name, None) for name in ("data", "forward", "loss"))
        self._settings = {**settings, "data": calibration_of(*how)}

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return [] if self.compressor is None else self.compressor.events

    def check(self, model: nn.Module, optimizer: Any = None) -> None:
        """Refuse what `start` would refuse; from here on the model loads smaller states."""
        Compressor(self._part(model), optimizer, **self._settings)

    def start(
        self,
        model: nn.Module,
        optimizers: Any,
        schedulers: Sequence[Companion],
        *,
        state: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Compressor:
        """Make the compressor; model and optimizers are as a checkpoint, if any, has them.

        Args:
            model, optimizers, more: see `compressm.Compressor`.
            schedulers: become companions of the guard, if there is one.
            state: of the compressor, out of that checkpoint.
        """
        guard = self._guard
        if guard is not None:
            guard = replace(guard, companions=[*guard.companions, *schedulers])
        settings = {**self._settings, **more, "guard": guard, "log": self._log}
        self.compressor = Compressor(self._part(model), optimizers, **settings)
        if state is not None:
            self.compressor.load_state_dict(state)
        return self.compressor

    def _part(self, model: nn.Module) -> nn.Module:
        if self._target is None:
            return model
        try:
            part: nn.Module = attrgetter(self._target)(model)
        except AttributeError as error:
            raise InputError(f"target: {type(model).__name__} has no {self._target}") from error
        return part
