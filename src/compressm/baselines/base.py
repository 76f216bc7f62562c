"""What a baseline must say, and the open table of baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from compressm.errors import ConfigError
from compressm.registry import Registry
from compressm.train.build import loss_of
from compressm.train.checks import check_types
from compressm.train.config import RunConfig

# The loss of a model on the batch of a step; steps count from 0.
Loss = Callable[[nn.Module, Mapping[str, Tensor], int], Tensor]

BASELINES: Registry[type[Baseline]] = Registry("baseline", "compressm.baselines", error=ConfigError)
register_baseline = BASELINES.register
"""Class decorator with a name, by which the arms of experiments know the baseline."""


@final
@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a training has taken.

    Attributes:
        seconds: by the clock on the wall; other work on the machine lengthens them.
        processor_seconds: of processor time, summed over threads; other work hardly does.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            seconds=self.seconds + other.seconds,
            processor_seconds=self.processor_seconds + other.processor_seconds,
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """What a training minimises.

    Attributes:
        loss: see `Loss`.
        before: the cost of training that it rests on, such as that of a teacher.
    """

    loss: Loss
    before: Cost = Cost()


TASK = Objective(loss=lambda model, batch, step: loss_of(model, batch))
"""The loss of the task and nothing else."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FullModel:
    """The recipe's model, trained to its last step without a cut, and what that took."""

    model: nn.Module
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Baseline(ABC):
    """Another way to a small model, in the terms of a recipe: frozen settings and two answers.

    Attributes:
        beginning: names of the settings that decide the steps before its only cut. Arms of an
            experiment that differ in other settings train these steps once. Without names every
            run is trained from its first step.
    """

    beginning: ClassVar[tuple[str, ...]] = ()

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
    def objective(self, config: RunConfig, full: Callable[[], FullModel]) -> Objective:
        """What that run minimises; mostly `TASK`.

        Args:
            config: of the recipe.
            full: trains the recipe's own model, or finds it where it has been trained.
        """
