"""What a kind of model must offer to recipes, and the open registry of kinds."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from compressm.data import Task
from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.nn.pooling import Pooling
from compressm.registry import Registry
from compressm.train.checks import check_types

# What a recipe that names no kind is made of.
DEFAULT_KIND = "blocks"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """The model of a recipe, as far as the data set does not fix it: base of all kinds.

    Attributes:
        kind: name of a registered kind; each kind adds fields of its own.
        width: H, features of every step between the layers.
        state_dim: N, states of every layer at the start.
        depth: number of layers.
        pooling: how the steps become one feature vector; by default "mean", and "none" (a
            prediction at every step) for tasks with a label at every step.
    """

    kind: str = ""
    width: int
    state_dim: int
    depth: int = 1
    pooling: Literal["mean", "last", "none"] | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if KINDS.get(self.kind) is not type(self):
            raise ConfigError(f"kind: got {self.kind!r}, which {type(self).__name__} does not make")
        for name in ("width", "state_dim", "depth"):
            check_at_least(name, getattr(self, name), 1)

    @abstractmethod
    def build(self, task: Task) -> nn.Module:
        """The model that a task needs, at full size, with fresh parameters.

        It is called with the entries of a batch as keywords, labels left out, and returns logits.

        Raises:
            ConfigError: this kind of model has nothing for the task.
        """

    def pooling_for(self, task: Task) -> Pooling:
        """The pooling of a recipe, or the task's own.

        Raises:
            ConfigError: the pooling of the recipe does not fit the task.
        """
        pooling: Pooling = self.pooling or ("none" if task.per_step else "mean")
        if task.per_step != (pooling == "none"):
            fits = "'none'" if task.per_step else "'mean' or 'last'"
            raise ConfigError(
                f"model: pooling: got {pooling!r}, but a {task.kind} task needs {fits}"
            )
        return pooling


KINDS: Registry[type[ModelConfig]] = Registry(
    "kind of model", "compressm.train.models", error=ConfigError
)
C = TypeVar("C", bound=type[ModelConfig])


def register_model(kind: str) -> Callable[[C], C]:
    """Class decorator: recipes that say `model.kind: KIND` get this configuration.

    The class is a frozen dataclass that subclasses `ModelConfig` and implements `build`.

    Raises:
        ConfigError: the name is taken, or the default of the field `kind` is another one.
    """

    def add(cls: C) -> C:
        default = next(f.default for f in dataclasses.fields(cls) if f.name == "kind")
        if default != kind:
            raise ConfigError(f"{cls.__name__}.kind: got {default!r}, expected {kind!r}")
        return KINDS.register(kind)(cls)

    return add


def kind_of(values: Mapping[str, Any]) -> type[ModelConfig]:
    """The configuration class that the `model` part of a recipe asks for.

    Raises:
        ConfigError: there is no such kind; the known ones are listed.
    """
    return KINDS.find(values.get("kind", DEFAULT_KIND), "model.kind")
