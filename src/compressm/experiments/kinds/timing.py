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
from compressm.errors import ConfigError
from compressm.experiments.bench import Bench, Figures, Live
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.experiments.kinds.cut import Cut
from compressm.integrations.cpu import accelerate_cpu
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
        plain: also those of both sizes by transformers' own code, without `accelerate_cpu`.
        at: share of the steps at which a run is cut: the smaller one is then cut by the default
            instead of starting small, and figures say what all steps with that cut take, going by
            the medians. None: no cut is made.
    """

    kept: int
    rounds: int = 15
    each: int = 5
    plain: bool = False
    at: float | None = None
    timed: ClassVar[bool] = True

    def validate(self) -> None:
        for name in ("kept", "rounds", "each"):
            check_at_least(name, getattr(self, name), 1)
        if self.at is not None and not 0 < self.at <= 1:
            raise ConfigError(f"at: expected a share in (0, 1], got {self.at}")

    def run(self, place: Workplace) -> Figures:
        bench = place.bench
        if self.at is None:
            small, cut_seconds = self._started_small(bench), 0.0
        else:
            self._cut(bench)  # what a first cut takes longer is no matter of the size
            small, cut_seconds = self._cut(bench)
        lives = {"full": bench.live(), "kept": small}
        if self.plain:
            plain = {"plain_full": bench.live(), "plain_kept": self._started_small(bench)}
            for live in plain.values():
                accelerate_cpu(live.model, enable=False)
            lives |= plain
        best, medians = self._timed(bench, lives)
        found: Figures = {f"{name}_step_milliseconds": ms for name, ms in medians.items()}
        found |= {f"{name}_best_step_milliseconds": ms for name, ms in best.items()}
        found["speedup"] = medians["full"] / medians["kept"]
        if self.plain:
            for name in ("full", "kept"):
                found[f"{name}_over_plain_speedup"] = medians[f"plain_{name}"] / medians[name]
        if self.at is not None:
            found |= whole_run(bench.steps, self.at, medians, cut_seconds)
        return found

    def _started_small(self, bench: Bench) -> Live:
        return bench.live(Scratch(kept=self.kept).configure(bench.config))

    def _cut(self, bench: Bench) -> tuple[Live, float]:
        live = bench.live()
        live.model.train()
        bench.advance(live)  # so that the optimizer has moments to carry
        return live, Cut(kept=self.kept).make(bench, live).seconds

    def _timed(
        self, bench: Bench, lives: dict[str, Live]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Best and median milliseconds of a step, by name."""
        times: dict[str, list[float]] = {name: [] for name in lives}
        for live in lives.values():
            live.model.train()
            for _ in range(3):
                bench.advance(live)
        for _ in range(self.rounds):
            for name, live in lives.items():
                turn = [bench.advance(live)[0] for _ in range(self.each)]
                times[name].append(1e3 * median(turn))
        return (
            {name: min(ms) for name, ms in times.items()},
            {name: median(ms) for name, ms in times.items()},
        )


def whole_run(steps: int, at: float, medians: dict[str, float], cut_seconds: float) -> Figures:
    """Seconds of all steps never cut, and cut once; validation and tests not counted."""
    full, kept = (steps * medians[name] / 1e3 for name in ("full", "kept"))
    run = at * full + cut_seconds + (1 - at) * kept
    return {
        "cut_seconds": cut_seconds,
        "full_run_seconds": full,
        "cut_run_seconds": run,
        "cut_share_percent": 100 * cut_seconds / run,
        "run_speedup": full / run,
    }


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
