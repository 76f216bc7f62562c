"""Times of operators and of the steps around them, every code in turn with the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, ClassVar, final

from compressm.data.options import check_at_least
from compressm.experiments.bench import Figures
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.experiments.speed import lru, mamba
from compressm.experiments.speed.clock import products_gflops
from compressm.ops.build import kernels


@final
@register_kind("lru-operators")
@dataclass(frozen=True, kw_only=True)
class LruOperators(Kind):
    """Every backend of the LRU in the settings that were published.

    Attributes:
        rounds: turns, of which best and median count.
    """

    rounds: int = 8
    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        check_at_least("rounds", self.rounds, 1)

    def run(self, place: Workplace) -> Figures:
        return {
            "gflops": products_gflops(),
            "models": [asdict(setting) for setting in lru.SETTINGS],
            "timings": [_named(t) for t in lru.measure_ops(lru.SETTINGS, rounds=self.rounds)],
        }


def _named(timing: lru.Timing) -> Figures:
    """A row with the unit in the names of its times."""
    row: Figures = {}
    for entry in fields(timing):
        value: Any = getattr(timing, entry.name)
        if isinstance(value, tuple):
            row[f"{entry.name}_best_milliseconds"], row[f"{entry.name}_median_milliseconds"] = value
        else:
            row[entry.name] = value
    return row


@final
@register_kind("mamba-operators")
@dataclass(frozen=True, kw_only=True)
class MambaOperators(Kind):
    """The selective scan, and a training step of a small Mamba, beside other people's code.

    Attributes:
        rounds: turns, of which best and median count.
        loop: also time transformers' own loop, which takes minutes.
    """

    rounds: int = 6
    loop: bool = True
    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        check_at_least("rounds", self.rounds, 1)

    def run(self, place: Workplace) -> Figures:
        timings = mamba.measure_mamba(mamba.SETTING, rounds=self.rounds, loop=self.loop)
        against = mamba.ratios(mamba.SETTING, timings)
        packages = [name for name in ("transformers", "mambapy") if find_spec(name) is not None]
        return {
            "gflops": products_gflops(),
            "kernel": kernels() is not None,
            "packages": {name: version(name) for name in packages},
            "model": asdict(mamba.SETTING),
            "timings": [
                {
                    **{key: getattr(t, key) for key in ("what", "code", "states", "length")},
                    "best_milliseconds": t.best,
                    "median_milliseconds": t.median,
                    "times_ours": round(against[t.what, t.code, t.states], 2),
                }
                for t in timings
            ],
        }
