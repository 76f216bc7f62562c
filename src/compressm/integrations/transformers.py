"""`CompressionCallback`: a `Compressor` that a Hugging Face `Trainer` steps."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compressm.calibration import calibration_of
from compressm.compressor import Compressor
from compressm.errors import CheckpointError, MissingExtraError
from compressm.events import Event
from compressm.guard import Guard

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError("transformers", "transformers") from error

_KEY, _FILE = "compressm", "compressm.pt"


class CompressionCallback(TrainerCallback):
    """Cuts state dimensions on a schedule of optimizer steps, in the model and its optimizer.

        trainer = Trainer(model, args, train_dataset=data, callbacks=[CompressionCallback(
            policy=EnergyTolerance(0.1), schedule=Schedule.spaced(cuts=4, stop=1_000))])

    Its state travels in `trainer_state.json`, so `resume_from_checkpoint` goes on where the run
    was, with layers resized to the checkpoint. After every cut the Trainer's record of its best
    model starts anew: `load_best_model_at_end` chooses among models of the final size.

    Args:
        guard: as for `compressm.Compressor`; the Trainer's LR scheduler becomes a companion.
        compression: further arguments of `compressm.Compressor`: policy, schedule, data, log, …

    Attributes:
        compressor: the compressor, from the start of training on.
    """

    def __init__(self, *, guard: Guard | None = None, **compression: Any) -> None:
        self.compressor: Compressor | None = None
        self._guard, self._parameters = guard, 0
        how = (compression.pop(name, None) for name in ("data", "forward", "loss"))
        self._settings = {**compression, "data": calibration_of(*how)}

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return [] if self.compressor is None else self.compressor.events

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse what cannot work, and let a checkpoint with smaller states be loaded."""
        if (model := kwargs.get("model")) is not None:
            Compressor(model, kwargs.get("optimizer"), **{**self._settings, "log": None})

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """By now the model and the optimizer hold what the checkpoint, if any, has."""
        guard, scheduler = self._guard, kwargs.get("lr_scheduler")
        if guard is not None and scheduler is not None:
            guard = replace(guard, companions=[*guard.companions, scheduler])
        self.compressor = Compressor(
            kwargs["model"], kwargs["optimizer"], guard=guard, **self._settings
        )
        self._parameters = sum(p.numel() for p in kwargs["model"].parameters())
        saved = state.stateful_callbacks.get(_KEY)
        if saved is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.compressor.load_state_dict(_read(saved, folder))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Cut if the optimizer step that was just made is due."""
        assert self.compressor is not None
        event = self.compressor.step(state.global_step)
        if event is None:
            return
        if event.parameters_after != self._parameters:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
            self._parameters = event.parameters_after
        # A pending cut needs the model as it was, too much for a JSON file: see `on_save`.
        pending = self.compressor.pending
        state.stateful_callbacks[_KEY] = "" if pending else _encoded(self.compressor.state_dict())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put what undoing a pending cut needs beside the checkpoint."""
        if self.compressor is not None and self.compressor.pending and args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            torch.save(self.compressor.state_dict(), folder / f"{_FILE}.part")
            (folder / f"{_FILE}.part").replace(folder / _FILE)


def _encoded(state: dict[str, Any]) -> str:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _read(saved: str, folder: Path) -> dict[str, Any]:
    source: Any = io.BytesIO(base64.b64decode(saved)) if saved else folder / _FILE
    try:
        state: dict[str, Any] = torch.load(source, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no {folder / _FILE}: this checkpoint was made while a cut waited for its "
            "verdict and is incomplete; resume from an earlier one, in the same output_dir"
        ) from None
    return state
