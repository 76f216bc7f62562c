"""Does the H-infinity bound hold? What cuts did to every layer, against what was promised."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, final

import torch

from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.experiments.bench import Bench, Figures, Live
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.families import find_sites
from compressm.families.lti.traced import traced_system
from compressm.numerics import StateSpace, hinf_error
from compressm.once import compress_
from compressm.policies import FixedRank


@final
@register_kind("bounds")
@dataclass(frozen=True, kw_only=True)
class Bounds(Kind):
    """Copies of the model that is never cut are cut to several sizes, and ended there.

    ||G - G_r||_inf of each layer, as stored before and after, is computed on frequencies that
    follow its poles, and divided by the bound of the event.

    Attributes:
        kept: the sizes.
        at: share of the steps at which they are cut.
        method: one with a bound: "published" or "real-pairs".
    """

    kept: list[int]
    at: float = 0.1
    method: str = "real-pairs"

    def validate(self) -> None:
        if not self.kept:
            raise ConfigError("kept: expected at least one number of states, got none")
        for states in self.kept:
            check_at_least("kept", states, 1)
        if not 0 < self.at <= 1:
            raise ConfigError(f"at: expected a share in (0, 1], got {self.at}")

    def run(self, place: Workplace) -> Figures:
        live = place.resumed(round(self.at * place.bench.steps))
        cuts = [cut for kept in self.kept for cut in self._cuts(place.bench, live, kept)]
        ratios = [cut["error_over_bound"] for cut in cuts]
        return {"cuts": cuts, "largest_error_over_bound": max(ratios)}

    def _cuts(self, bench: Bench, live: Live, kept: int) -> list[dict[str, Any]]:
        model, optimizer = copy.deepcopy((live.model, live.optimizer))
        full = systems(model)
        event = compress_(
            model, optimizer, policy=FixedRank(kept), method=self.method, seed=bench.config.seed
        )
        small, found = systems(model), []
        for site in event.sites:
            if site.after == site.before:
                continue
            if site.bound is None:
                raise ConfigError(f"method: {self.method!r} promises no bound in {site.site!r}")
            error = hinf_error(full[site.site], small[site.site])
            found.append(
                {
                    "site": site.site,
                    "states": site.after,
                    "error": error,
                    "bound": site.bound,
                    # A bound of zero is of a cut that changes nothing.
                    "error_over_bound": error / site.bound if site.bound else float(error > 0),
                    "seconds": event.seconds,
                }
            )
        return found


@torch.no_grad()
def systems(model: torch.nn.Module) -> dict[str, StateSpace]:
    """What the linear layers of a model are, by module path."""
    return {name: traced_system(site) for name, site in find_sites(model).items()}
