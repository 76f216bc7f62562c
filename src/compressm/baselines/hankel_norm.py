"""Hankel-nuclear-norm regularisation: training that makes the states compressible, then a cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from compressm.baselines.base import Baseline, FullModel, Objective, register_baseline
from compressm.baselines.truncation import truncated
from compressm.data.options import check_at_least
from compressm.errors import ConfigError, InputError
from compressm.families import find_sites
from compressm.families.lti.traced import traced_system
from compressm.numerics import hankel_nuclear_norm
from compressm.train.build import loss_of
from compressm.train.checks import check_share
from compressm.train.config import RunConfig


@final
@register_baseline("hankel-nuclear-norm")
@dataclass(frozen=True, kw_only=True)
class HankelNuclearNorm(Baseline):
    """loss + weight * sum over layers of Σ_i σ_i, then truncation to `kept` states.

    σ are the Hankel singular values of the real map of each layer, at the parameters of the step.
    For linear time-invariant layers (LRU, S5, S4D and DSS with all channels); others are refused.

    Attributes:
        kept: states of every layer after the truncation.
        weight: of the penalty.
        every: steps from one penalty to the next; it then counts `every` times, so that its mean
            pull stays the same.
        at: share of the steps after which the model is cut; no penalty follows. 1: at the end.
        method: of the cut.

    Source: arXiv 2403.14833; HSVR (NeurIPS 2025) has a penalty of the same kind.
    """

    kept: int
    weight: float
    every: int = 1
    at: float = 1.0
    method: str = "published"
    beginning: ClassVar[tuple[str, ...]] = ("weight", "every", "at")

    def validate(self) -> None:
        check_at_least("kept", self.kept, 1)
        check_at_least("every", self.every, 1)
        check_share(self, "at", zero=False)
        if not self.weight >= 0:
            raise ConfigError(f"weight: got {self.weight}, expected at least 0")

    def configure(self, config: RunConfig) -> RunConfig:
        return truncated(config, self.kept, at=self.at, method=self.method)

    def objective(self, config: RunConfig, full: Callable[[], FullModel]) -> Objective:
        last, weight = round(self.at * config.trainer.steps), self.weight * self.every

        def loss(model: nn.Module, batch: Mapping[str, Tensor], step: int) -> Tensor:
            found = loss_of(model, batch)
            if weight == 0 or step >= last or step % self.every:
                return found
            return found + weight * penalty(model).to(found)

        return Objective(loss=loss)


def penalty(model: nn.Module) -> Tensor:
    """Σ_i σ_i of all layers together, a float64 scalar that gradients follow.

    Raises:
        ConfigError: a layer is not linear and time-invariant.
    """
    try:
        systems = [traced_system(site) for site in find_sites(model).values()]
    except InputError as error:
        raise ConfigError(f"hankel-nuclear-norm: {error}") from error
    return torch.stack([hankel_nuclear_norm(system) for system in systems]).sum()
