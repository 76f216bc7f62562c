"""`CompressionCallback`: a `Compressor` that a Hugging Face `Trainer` steps."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressm.compressor import Compressor
from compressm.errors import CheckpointError, MissingExtraError
from compressm.events import Event
from compressm.integrations.deferred import DeferredCompressor, wrapper_of
from compressm.integrations.scalars import scalars, write_histograms
from compressm.storage.files import write_text
from compressm.storage.state_trees import from_text, load_tree, save_tree, to_text

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
    was, with layers resized to the checkpoint. A further `train()` of the same model goes on where
    the callback was, although the Trainer counts from 0 again; with another model it starts anew.

    Every event goes through the Trainer's `log`, as numbers under `compressm/`: to what
    `report_to` names (to TensorBoard as histograms of the spectra too), to other callbacks and into
    the history. After every cut the Trainer's record
    of its best model starts anew: `load_best_model_at_end` chooses among models of the final size.

    A cut that waits for its verdict when the training ends is judged then, see `Compressor.finish`.

    Args:
        target: attribute path of the module to compress, such as "backbone"; by default the model
            itself. `data` goes through this module.
        compression: all other arguments of `compressm.Compressor` but model, optimizer and wrapper:
            policy, schedule, guard, data, loss, ema, log, … A guard's companions are joined by
            the Trainer's LR scheduler and its gradient scaler.

    Raises:
        InputError: an argument that `Compressor` does not have.
    """

    def __init__(self, *, target: str | None = None, **compression: Any) -> None:
        self._deferred = DeferredCompressor(target=target, **compression)
        self._parameters = 0

    @property
    def compressor(self) -> Compressor | None:
        """The compressor, from the start of training on."""
        return self._deferred.compressor

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return self._deferred.events

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse what cannot work, and let a checkpoint with smaller states be loaded."""
        if (model := kwargs.get("model")) is not None:
            self._deferred.check(model, kwargs.get("optimizer"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """By now the model and the optimizer hold what the checkpoint, if any, has."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        companions = [kwargs.get("lr_scheduler"), getattr(optimizer, "scaler", None)]
        self._deferred.start(
            model,
            optimizer,
            [companion for companion in companions if companion is not None],
            count=state.global_step,
            restored=_restored(args, state),
            wrapper=wrapper_of(model),
        )
        part = self._deferred.part_of(model)
        self._parameters = sum(p.numel() for p in part.parameters())
        self._remember(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Cut if the optimizer step that was just made is due."""
        self._tell(state, control, self._deferred.step(state.global_step))
        if control.should_training_stop:  # before this step is evaluated and saved
            self._finish(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge a pending cut if an evaluation has stopped the training."""
        if control.should_training_stop:
            self._finish(state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge a cut whose recovery steps reach beyond the end."""
        self._finish(state, control)

    def _finish(self, state: Any, control: Any) -> None:
        self._tell(state, control, self._deferred.finish())

    def _tell(self, state: Any, control: Any, event: Event | None) -> None:
        """Give an event to all that log, and take it into the Trainer's records."""
        if event is None:
            return
        if event.parameters_after != self._parameters:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
            self._parameters = event.parameters_after
        self._remember(state)
        if (trainer := _trainer()) is not None:
            due = control.should_log
            trainer.log(scalars(event))
            for callback in trainer.callback_handler.callbacks:  # TensorBoard's names its writer so
                writer = getattr(callback, "tb_writer", None)
                write_histograms(writer, event, state.global_step, "train/")
            control.should_log = due  # `log` has taken it for the loss of this step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put our state of this step into the checkpoint, which has one of an earlier step.

        What undoing a pending cut needs goes into a file of its own.
        """
        if self.compressor is None or not args.should_save:
            return
        folder = _folder(args, state)
        self._remember(state)
        if (file := folder / "trainer_state.json").is_file():
            write_text(file, json.dumps(asdict(state), indent=2, sort_keys=True) + "\n")
        if self.compressor.pending:
            save_tree(folder / _FILE, self._deferred.state_dict())

    def _remember(self, state: Any) -> None:
        """Put our state where the Trainer's next checkpoint takes it along."""
        assert self.compressor is not None
        # A pending cut needs the model as it was, too much for a JSON file: see `on_save`.
        pending = self.compressor.pending
        state.stateful_callbacks[_KEY] = "" if pending else to_text(self._deferred.state_dict())


def _trainer() -> Any:
    """The Trainer that is calling, None if another loop does.

    Callbacks get no reference to it, and only through its `log` does a value reach all loggers.
    """
    from transformers import Trainer

    frame = sys._getframe()
    while (above := frame.f_back) is not None:
        frame = above
        if isinstance(caller := frame.f_locals.get("self"), Trainer):
            return caller
    return None


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _restored(args: Any, state: Any) -> Any:
    """Our state in the checkpoint that the run resumes from; None if it resumes from none."""
    saved = state.stateful_callbacks.get(_KEY)
    if saved is None:
        return {} if state.global_step else None
    folder = _folder(args, state)
    if saved:
        return from_text(saved, f"{folder / 'trainer_state.json'}, {_KEY}")
    if not (folder / _FILE).exists():
        raise CheckpointError(
            f"there is no {folder / _FILE}: this checkpoint was made while a cut waited for its "
            "verdict and is incomplete; resume from an earlier one, in the same output_dir"
        )
    return load_tree(folder / _FILE)
