"""Models on disk: safetensors with all that is needed to build the model again, no pickle."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from compressm.checkpoints import load_compressed
from compressm.data import Task
from compressm.errors import CheckpointError, CompressmError
from compressm.storage.tensors import read_tensors, write_tensors
from compressm.train.build import build_model
from compressm.train.config import RunConfig
from compressm.train.parse import build_config
from compressm.train.sizes import states_of
from compressm.version import unstamped

_KEY = "compressm"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What travels with the weights.

    Attributes:
        config: the run that made the model.
        task: what the data set asks of a model.
        step: optimizer steps of training.
        state_dims: states of each layer, by module name.
        metrics: figures of this very model, such as val/accuracy.
    """

    config: RunConfig
    task: Task
    step: int
    state_dims: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON object; the file around it says its version."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """The card of a text that `to_json` wrote."""
        # The format stood here before the file around it said its own.
        values = unstamped(json.loads(text), "it")
        config, task = build_config(values.pop("config")), Task(**values.pop("task"))
        return cls(config=config, task=task, **values)


def save_model(path: str | Path, model: nn.Module, card: ModelCard) -> None:
    """Write weights and card to one .safetensors file, whole or not at all.

    `state_dims` of the card are taken from the model.
    """
    card = dataclasses.replace(card, state_dims=states_of(model))
    write_tensors(path, model.state_dict(), {_KEY: card.to_json()})


def find_model_file(path: str | Path) -> Path:
    """The model file of a run folder (the best model, or the last where there is no best yet).

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("best", "last"):
            for folder in (path / "checkpoints", path):
                if (folder / f"{name}.safetensors").is_file():
                    return folder / f"{name}.safetensors"
        raise CheckpointError(
            f"{path} holds no model: expected checkpoints/best.safetensors or "
            "checkpoints/last.safetensors; give a run folder or a .safetensors file"
        )
    if not path.is_file():
        raise CheckpointError(f"there is no run folder or model file {path}")
    return path


def read_card(path: str | Path) -> ModelCard:
    """The card of a run folder or model file, without its weights.

    Raises:
        CheckpointError: see `load_run_model`.
    """
    return _read(find_model_file(path), weights=False)[0]


def load_run_model(path: str | Path) -> tuple[nn.Module, RunConfig]:
    """The model of a run folder or model file, in evaluation mode on the CPU, and its config.

    Of a run folder it is the best model by validation after the last cut, or the last model of a
    run that has none yet.

    Raises:
        CheckpointError: the file is missing, truncated, changed, or no model that compressm saved.
    """
    file = find_model_file(path)
    card, tensors = _read(file, weights=True)
    try:
        model = build_model(card.config.model, card.task)
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        if shapes == {name: value.shape for name, value in tensors.items()}:
            model.load_state_dict(tensors)
        else:
            load_compressed(model, tensors)
    except (CompressmError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file} does not fit the model it describes: {reason}") from error
    return model.eval(), card.config


def _read(file: Path, *, weights: bool) -> tuple[ModelCard, dict[str, Tensor]]:
    tensors, metadata = read_tensors(file, weights=weights)
    if _KEY not in metadata:
        raise CheckpointError(
            f"{file} has no compressm metadata, so its model cannot be rebuilt; "
            "give a file that `compressm train` or `compressm compress` wrote"
        )
    try:
        return ModelCard.from_json(metadata[_KEY]), tensors
    except (ValueError, TypeError, KeyError, CheckpointError) as error:
        raise CheckpointError(f"{file}: unusable compressm metadata: {error}") from error
