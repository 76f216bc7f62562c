"""Transformers' models behind the call that our data sets make.

B batch, L length, C input channels, H width, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from compressm.data import Task
from compressm.errors import ConfigError, InputError
from compressm.integrations.stock_steps import States, stock_initial_state, stock_step
from compressm.nn.pooling import Pooled, Pooling, check_pooling, pool, pool_step, start_pooling


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

    def initial_state(self, batch: int) -> tuple[States, Pooled | tuple[()]]:
        """The states of all layers before the first step, and what pooling carries."""
        pooled = start_pooling(self.head.weight, batch, self.pooling)
        return stock_initial_state(self.backbone, batch), pooled

    def step(
        self, inputs: Tensor, state: tuple[States, Pooled | tuple[()]]
    ) -> tuple[Tensor, tuple[States, Pooled | tuple[()]]]:
        """One step, (B, C) or (B,) -> logits (B, K) of the sequence so far, and the new state."""
        given = (
            {"input_ids": inputs[:, None]}
            if self.embed is None
            else {"inputs_embeds": self.embed(inputs)[:, None]}
        )
        output, layers = stock_step(self.backbone, given, state[0])
        features, pooled = pool_step(output.last_hidden_state[:, 0], state[1])
        return self.head(features), (layers, pooled)


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
