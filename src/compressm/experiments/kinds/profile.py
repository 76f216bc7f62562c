"""Where a training step spends its time, by operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.experiments.bench import Figures
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.experiments.speed import lru, mamba
from compressm.experiments.speed.clock import products_gflops
from compressm.experiments.speed.profiles import profiled


@final
@register_kind("lru-profile")
@dataclass(frozen=True, kw_only=True)
class LruProfile(Kind):
    """A training step of a model of LRUs by operator, and what its products alone would take.

    Attributes:
        model: name of a published setting.
        states: of every layer.
        steps: over which the profiler averages.
    """

    model: str
    states: int
    steps: int = 5
    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        known = [setting.name for setting in lru.SETTINGS]
        if self.model not in known:
            raise ConfigError(f"model: got {self.model!r}, expected one of {', '.join(known)}")
        for name in ("states", "steps"):
            check_at_least(name, getattr(self, name), 1)

    def run(self, place: Workplace) -> Figures:
        setting = next(one for one in lru.SETTINGS if one.name == self.model)
        gflops = products_gflops()
        flops = lru.product_flops(setting, self.states)
        return {
            "gflops": gflops,
            "product_gflop": flops / 1e9,
            "products_at_best_milliseconds": flops / 1e6 / gflops["compressm.ops.linear"],
            **profiled(lru.model_call(setting, self.states, "auto"), self.steps),
        }


@final
@register_kind("mamba-profile")
@dataclass(frozen=True, kw_only=True)
class MambaProfile(Kind):
    """A training step of a small Mamba through `accelerate_cpu`, by operator.

    Attributes:
        states: of every layer.
        steps: over which the profiler averages.
    """

    states: int
    steps: int = 5
    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        for name in ("states", "steps"):
            check_at_least(name, getattr(self, name), 1)

    def run(self, place: Workplace) -> Figures:
        step = mamba.accelerated_call(mamba.SETTING, self.states)
        return {"gflops": products_gflops(), **profiled(step, self.steps)}
