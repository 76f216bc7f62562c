"""`kind: blocks`: our own residual blocks around a registered layer, such as the LRU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from compressm.data import Task
from compressm.errors import ConfigError
from compressm.nn import PairClassifier, SequenceClassifier
from compressm.train.models.base import ModelConfig, register_model


@register_model("blocks")
@dataclass(frozen=True, kw_only=True)
class BlocksConfig(ModelConfig):
    """Blocks of `compressm.nn`, for every kind of task.

    Attributes:
        layer: name of a registered layer; layer_options are its further keywords.
        dropout, norm, prenorm: see `compressm.nn.Block`.
    """

    kind: str = "blocks"
    layer: str = "lru"
    layer_options: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.1
    norm: Literal["batch", "layer"] = "batch"
    prenorm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout: got {self.dropout}, expected 0 <= dropout < 1")

    def build(self, task: Task) -> nn.Module:
        """A `SequenceClassifier`, or a `PairClassifier` for retrieval.

        Raises:
            InputError: an unknown layer, or options that it does not take.
        """
        options: dict[str, Any] = {
            "input": task.input,
            "features": task.input_size,
            "classes": task.classes,
            "pooling": self.pooling_for(task),
            "width": self.width,
            "state_dim": self.state_dim,
            "depth": self.depth,
            "layer": self.layer,
            "layer_options": self.layer_options,
            "dropout": self.dropout,
            "norm": self.norm,
            "prenorm": self.prenorm,
        }
        make = PairClassifier if task.paired else SequenceClassifier
        return make(**options)
