"""Transformers' models behind the call that our data sets make.

B batch, L length, C input channels, H width, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from compressm.data import Task
from compressm.errors import ConfigError, InputError
from compressm.nn.pooling import Pooling, check_pooling, pool


class CausalLM(nn.Module):
    """A language model of transformers; `model` is that model, as it came.

    Args:
        model: such as `MambaForCausalLM`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, L) -> logits (B, L, K); mask (B, L) true at real steps."""
        logits: Tensor = self.model(input_ids=inputs, attention_mask=mask, use_cache=False).logits
        return logits


class BackboneClassifier(nn.Module):
    """A backbone of transformers between an input map and a pooled linear head.

        logits = head(pool(backbone(inputs)))

    Args:
        backbone: such as `MambaModel`; it stays as it came.
        input: "token" goes through the backbone's own embedding, "real" through a linear map.
        features: C for real inputs (the vocabulary is the backbone's own matter).
        classes: K.
        pooling: "mean" over the real steps, "last" real step, or "none".

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self, backbone: Any, *, input: str, features: int, classes: int, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        for name, value in (("features", features), ("classes", classes)):
            if value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")
        check_pooling(pooling)
        width = backbone.config.hidden_size
        self.backbone = backbone
        self.embed = nn.Linear(features, width) if input == "real" else None
        if self.embed is not None:
            # Never called then, and without a gradient it would only make optimizers ask.
            backbone.get_input_embeddings().requires_grad_(False)
        self.pooling = pooling
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, K), or (B, L, K) with pooling "none".

        Args:
            inputs: (B, L, C) real values or (B, L) tokens.
            mask: (B, L), true at real steps.
        """
        given = (
            {"input_ids": inputs} if self.embed is None else {"inputs_embeds": self.embed(inputs)}
        )
        features = self.backbone(**given, attention_mask=mask, use_cache=False).last_hidden_state
        logits: Tensor = self.head(pool(features, mask, self.pooling))
        return logits


def around(backbone: Any, task: Task, pooling: Pooling) -> BackboneClassifier:
    """The classifier that a task needs around a backbone.

    Raises:
        ConfigError: the task has two inputs for each label.
    """
    if task.paired:
        raise ConfigError(
            f"model.kind: a {task.kind} task compares two sequences, which only kind 'blocks' does"
        )
    return BackboneClassifier(
        backbone,
        input=task.input,
        features=task.input_size,
        classes=task.classes,
        pooling=pooling,
    )
