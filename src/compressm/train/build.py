"""From a configuration and a task to a model, its outputs, its loss and its figures.

B batch, L length, K classes or predicted values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.data import UNLABELLED, Task
from compressm.train.models import ModelConfig


def build_model(config: ModelConfig, task: Task) -> nn.Module:
    """The model that a task needs, at full size, with fresh parameters.

    Raises:
        ConfigError: the pooling does not fit the task, or this kind of model has nothing for it.
        InputError: an unknown layer, or options that it does not take.
    """
    return config.build(task)


def logits_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Outputs (B, K), or (B, L, K) for labels at steps: all but the labels go into the model."""
    logits: Tensor = model(**{key: value for key, value in batch.items() if key != "labels"})
    return logits


def loss_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean loss of a batch over all its labels, see `mean_loss`."""
    return mean_loss(logits_of(model, batch), batch["labels"])


def mean_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy in nats where labels are classes, mean squared error where they are real.

    Args:
        outputs: (B, K) or (B, L, K).
        labels: integers, (B,) or (B, L); or real values of the shape of the outputs.
    """
    if labels.is_floating_point():
        return functional.mse_loss(outputs, labels)
    return cross_entropy(outputs, labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[label] over sequences, or over the steps that have a label."""
    return functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=UNLABELLED
    )


def figures_of(logits: Tensor, labels: Tensor, task: Task) -> tuple[dict[str, Tensor], int]:
    """Figures of one batch, and over how many labels they are means.

    "loss" in nats and "accuracy", both over the steps that have a label; language models also
    have "bits", the loss as bits per token (per byte, where the tokens are bytes). Forecasts have
    "mse", which is their loss, and "mae", the mean absolute error.
    """
    if labels.is_floating_point():
        squared, absolute = mean_loss(logits, labels), functional.l1_loss(logits, labels)
        return {"loss": squared, "mse": squared, "mae": absolute}, labels.numel()
    labelled = labels != UNLABELLED
    count = int(labelled.sum())
    right = ((logits.argmax(-1) == labels) & labelled).sum() / count
    figures = {"loss": cross_entropy(logits, labels), "accuracy": right}
    if task.kind == "language-model":
        figures["bits"] = figures["loss"] / math.log(2)
    return figures, count


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], task: Task
) -> dict[str, float]:
    """The figures of `figures_of` over all batches, of the model in the mode that it is in."""
    total: dict[str, float] = {}
    labels = 0
    for batch in batches:
        figures, count = figures_of(logits_of(model, batch), batch["labels"], task)
        labels += count
        for name, value in figures.items():
            total[name] = total.get(name, 0.0) + float(value) * count
    return {name: value / labels for name, value in total.items()}
