"""From a configuration and a task to a model, its logits and its loss.

B batch, L length, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from compressm.data import Task
from compressm.errors import ConfigError
from compressm.nn import PairClassifier, SequenceClassifier
from compressm.train.config import ModelConfig


def build_model(config: ModelConfig, task: Task) -> nn.Module:
    """The model that a task needs, at full size, with fresh parameters.

    Raises:
        ConfigError: the pooling does not fit the task.
        InputError: an unknown layer, or options that it does not take.
    """
    per_step = task.kind == "language-model"
    pooling = config.pooling or ("none" if per_step else "mean")
    if per_step != (pooling == "none"):
        fits = "'none'" if per_step else "'mean' or 'last'"
        raise ConfigError(f"model: pooling: got {pooling!r}, but a {task.kind} task needs {fits}")
    options: dict[str, Any] = {
        "input": task.input,
        "features": task.input_size,
        "classes": task.classes,
        "pooling": pooling,
        "width": config.width,
        "state_dim": config.state_dim,
        "depth": config.depth,
        "layer": config.layer,
        "layer_options": config.layer_options,
        "dropout": config.dropout,
        "norm": config.norm,
        "prenorm": config.prenorm,
    }
    return PairClassifier(**options) if task.kind == "retrieval" else SequenceClassifier(**options)


def logits_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """(B, K), or (B, L, K) for language models: all but the labels go into the model."""
    logits: Tensor = model(**{key: value for key, value in batch.items() if key != "labels"})
    return logits


def loss_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross entropy of a batch in nats, over all its labels."""
    return cross_entropy(logits_of(model, batch), batch["labels"])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[label] over sequences, or over sequences and steps."""
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
