"""Times: training steps of two sizes in turn, and whole runs with and without the cut."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import ClassVar, final

import torch

from compressm.baselines import Scratch
from compressm.data.options import check_at_least
from compressm.experiments.bench import Figures
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.train import RunConfig
from compressm.train.config import CompressConfig


@final
@register_kind("steps")
@dataclass(frozen=True, kw_only=True)
class Steps(Kind):
    """Training steps at full and at cut size in turn, so that a busy moment slows both alike.

    Attributes:
        kept: states of the smaller one.
        rounds, each: turns, and steps in each of them.
    """

    kept: int
    rounds: int = 15
    each: int = 5
    timed: ClassVar[bool] = True

    def validate(self) -> None:
        for name in ("kept", "rounds", "each"):
            check_at_least(name, getattr(self, name), 1)

    def run(self, place: Workplace) -> Figures:
        bench = place.bench
        small = Scratch(kept=self.kept).configure(bench.config)
        lives = {"full": bench.live(), "kept": bench.live(small)}
        times: dict[str, list[float]] = {name: [] for name in lives}
        for live in lives.values():
            live.model.train()
            for _ in range(3):
                bench.advance(live)
        for _ in range(self.rounds):
            for name, live in lives.items():
                turn = [bench.advance(live)[0] for _ in range(self.each)]
                times[name].append(1e3 * median(turn))
        found: Figures = {f"{name}_step_milliseconds": median(ms) for name, ms in times.items()}
        best = {f"{name}_best_step_milliseconds": min(ms) for name, ms in times.items()}
        return found | best | {"speedup": found["full_step_milliseconds"] / median(times["kept"])}


@final
@register_kind("whole-run")
@dataclass(frozen=True, kw_only=True)
class WholeRun(Kind):
    """A whole run as `compressm train` makes it, validation, cuts and tests included.

    The steps are those of the recipe; a definition shortens all shares of a run together by
    overrides of the recipe.

    Attributes:
        kept: states that every layer is cut to, once; None never cuts.
        at: share of the steps at which it is cut.
        scratch: start with `kept` states instead of cutting to them.
    """

    kept: int | None = None
    at: float = 0.1
    scratch: bool = False
    timed: ClassVar[bool] = True

    def validate(self) -> None:
        check_at_least("kept", self.kept, 1)

    def run(self, place: Workplace) -> Figures:
        from compressm.train.run import train

        config = self._config(place.bench.config)
        with tempfile.TemporaryDirectory() as folder:
            # Once for the imports and the compiler's cache, which the first run would pay for all.
            train(_shortened(config, 10), Path(folder) / "warm")
            found = train(config, Path(folder) / "run")
        return {
            "wall_seconds": found.wall_seconds,
            "train_seconds": found.train_seconds,
            "cut_seconds": found.compression_seconds,
            "first_step_milliseconds": found.step_ms_start,
            "last_step_milliseconds": found.step_ms_end,
            "last_val_loss_nats": found.last["val/loss"],
            "threads": torch.get_num_threads(),
        }

    def _config(self, config: RunConfig) -> RunConfig:
        if self.kept is None:
            return replace(config, compress=None)
        if self.scratch:
            return Scratch(kept=self.kept).configure(config)
        policy = {"name": "rank", "rank": self.kept}
        compress = CompressConfig(policy=policy, uniform=True, cuts=1, window=self.at)
        return replace(config, compress=compress)


def _shortened(config: RunConfig, steps: int) -> RunConfig:
    trainer = replace(config.trainer, steps=min(steps, config.trainer.steps))
    return replace(config, trainer=trainer, compress=None)
