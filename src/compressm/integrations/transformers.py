"""`CompressionCallback`: a `Compressor` that a Hugging Face `Trainer` steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressm.compressor import Compressor
from compressm.errors import CheckpointError, MissingExtraError
from compressm.events import Event
from compressm.integrations.late import LateCompressor
from compressm.trees import from_text, load_tree, save_tree, to_text

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError("transformers", "transformers") from error

_KEY, _FILE = "compressm", "compressm.safetensors"


class CompressionCallback(TrainerCallback):
    """Cuts state dimensions on a schedule of optimizer steps, in the model and its optimizer.

        trainer = Trainer(model, args, train_dataset=data, callbacks=[CompressionCallback(
            policy=EnergyTolerance(0.1), schedule=Schedule.spaced(cuts=4, stop=1_000))])

    Its state travels in `trainer_state.json`, so `resume_from_checkpoint` goes on where the run
    was, with layers resized to the checkpoint. After every cut the Trainer's record of its best
    model starts anew: `load_best_model_at_end` chooses among models of the final size.

    Args:
        compression: arguments of `compressm.Compressor`: policy, schedule, data, log, …; a guard's
            companions are joined by the Trainer's LR scheduler.
    """

    def __init__(self, **compression: Any) -> None:
        self._late, self._parameters = LateCompressor(**compression), 0

    @property
    def compressor(self) -> Compressor | None:
        """The compressor, from the start of training on."""
        return self._late.compressor

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return self._late.events

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse what cannot work, and let a checkpoint with smaller states be loaded."""
        if (model := kwargs.get("model")) is not None:
            self._late.check(model, kwargs.get("optimizer"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """By now the model and the optimizer hold what the checkpoint, if any, has."""
        model, scheduler = kwargs["model"], kwargs.get("lr_scheduler")
        self._parameters = sum(p.numel() for p in model.parameters())
        saved = state.stateful_callbacks.get(_KEY)
        restored = None if saved is None else _read(saved, _folder(args, state))
        schedulers = [] if scheduler is None else [scheduler]
        self._late.start(model, kwargs["optimizer"], schedulers, state=restored)

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
        state.stateful_callbacks[_KEY] = "" if pending else to_text(self.compressor.state_dict())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put what undoing a pending cut needs beside the checkpoint."""
        if self.compressor is not None and self.compressor.pending and args.should_save:
            save_tree(_folder(args, state) / _FILE, self.compressor.state_dict())


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _read(saved: str, folder: Path) -> Any:
    if saved:
        return from_text(saved, f"{folder / 'trainer_state.json'}, {_KEY}")
    if not (folder / _FILE).exists():
        raise CheckpointError(
            f"there is no {folder / _FILE}: this checkpoint was made while a cut waited for its "
            "verdict and is incomplete; resume from an earlier one, in the same output_dir"
        )
    return load_tree(folder / _FILE)
