"""What a baseline must say, and the open table of baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from compressm.errors import ConfigError
from compressm.registry import Registry
from compressm.train.checks import check_types
from compressm.train.config import RunConfig

# The loss of a model on a batch; see `compressm.train.loss_of`.
Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]

BASELINES: Registry[type[Baseline]] = Registry("baseline", "compressm.baselines", error=ConfigError)
register_baseline = BASELINES.register
"""Class decorator with a name, by which the arms of experiments know the baseline."""


@dataclass(frozen=True, kw_only=True)
class Baseline(ABC):
    """Another way to a small model, in the terms of a recipe: frozen settings and two answers."""

    @final
    def __post_init__(self) -> None:
        """Refuse values of a wrong type, then what the baseline itself refuses."""
        check_types(self)
        self.validate()

    @abstractmethod
    def validate(self) -> None:
        """Raise `ConfigError` for unusable settings."""

    @abstractmethod
    def configure(self, config: RunConfig) -> RunConfig:
        """The run by which it is trained: the recipe with another size, other cuts, …"""

    @abstractmethod
    def loss(self, config: RunConfig) -> Loss:
        """What that run minimises, given the recipe; mostly the task's own loss."""
