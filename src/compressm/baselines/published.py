"""CompreSSM as it was published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from compressm.baselines.base import TASK, Baseline, FullModel, Objective, register_baseline
from compressm.baselines.truncation import gradual, require_fewer, with_cuts
from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.train.checks import check_share
from compressm.train.config import RunConfig


@final
@register_baseline("published")
@dataclass(frozen=True, kw_only=True)
class Published(Baseline):
    """The complex system balanced, four cuts in the warm-up, moments sliced in the old basis.

    Attributes:
        tolerance: share of Σσ that each cut may drop, layer by layer, as in the paper; or
        kept: states of every layer after the last cut, each cut keeping about the same share, so
            that sizes can be compared.
        cuts: equally spaced up to
        at: this share of the steps.

    Source: arXiv 2510.02823, section 3 and its code.
    """

    tolerance: float | None = None
    kept: int | None = None
    cuts: int = 4
    at: float = 0.1

    def validate(self) -> None:
        if (self.kept is None) == (self.tolerance is None):
            raise ConfigError("published: expected either kept or tolerance")
        check_at_least("kept", self.kept, 1)
        check_at_least("cuts", self.cuts, 1)
        check_share(self, "at", zero=False)
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ConfigError(f"tolerance: got {self.tolerance}, expected a share in (0, 1)")

    def configure(self, config: RunConfig) -> RunConfig:
        if self.kept is None:
            policy = {"name": "energy", "tolerance": self.tolerance}
        else:
            require_fewer(config, self.kept)
            policy = gradual(config.model.state_dim, self.kept, self.cuts)
        return with_cuts(
            config,
            policy,
            cuts=self.cuts,
            window=self.at,
            method="published",
            transport="slice",
        )

    def objective(self, config: RunConfig, full: Callable[[], FullModel]) -> Objective:
        return TASK
