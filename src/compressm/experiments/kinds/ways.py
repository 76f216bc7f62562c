"""What a training step costs by each way to a small model, in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, final

from compressm.baselines import Baseline, Cost, Distillation, FullModel, HankelNuclearNorm, Scratch
from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.experiments.bench import Bench, Figures, Live
from compressm.experiments.kinds.base import Kind, Workplace, register_kind


@final
@register_kind("way-steps")
@dataclass(frozen=True, kw_only=True)
class WaySteps(Kind):
    """Training steps of the full model, of the small one, under the regulariser, and distilled.

    Whole runs follow from the steps: `at` of them at full size and the rest small for the run that
    is cut, all of them for the others; cuts, validation and a teacher's training are not in it.

    Attributes:
        kept: states of the small model.
        every: steps from one penalty of the regulariser to the next.
        at: share of the steps at which a run is cut.
        rounds, each: turns, and steps in each of them.
    """

    kept: int
    every: list[int]
    at: float = 0.1
    rounds: int = 7
    each: int = 10
    timed: ClassVar[bool] = True

    def validate(self) -> None:
        for name in ("kept", "rounds", "each"):
            check_at_least(name, getattr(self, name), 1)
        for steps in self.every:
            check_at_least("every", steps, 1)
            if self.each % steps:
                raise ConfigError(f"each: expected a multiple of every={steps}, got {self.each}")
        if not 0 < self.at <= 1:
            raise ConfigError(f"at: expected a share in (0, 1], got {self.at}")

    def run(self, place: Workplace) -> Figures:
        bench = place.bench
        lives = dict(self._lives(bench))
        for live in lives.values():
            live.model.train()
            bench.advance(live)  # what the first step takes longer is no matter of the way
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in lives}
        for _ in range(self.rounds):
            for name, live in lives.items():
                turns[name].append(self._turn(bench, live))
        wall, processor = (
            {name: 1e3 * median(turn[clock] for turn in found) for name, found in turns.items()}
            for clock in (0, 1)
        )
        run = {name: at_work for name, at_work in processor.items() if name != "small"}
        run["cut"] = self.at * processor["full"] + (1 - self.at) * processor["small"]
        return {
            "wall_milliseconds": wall,
            "processor_milliseconds": processor,
            "run_over_cut": {name: step / run["cut"] for name, step in run.items()},
        }

    def _lives(self, bench: Bench) -> Iterator[tuple[str, Live]]:
        yield "full", bench.live()
        yield "small", bench.live(Scratch(kept=self.kept).configure(bench.config))
        for every in self.every:
            norm = HankelNuclearNorm(kept=self.kept, weight=3e-4, every=every)
            yield f"hankel_norm_every_{every}", self._of(bench, norm)
        yield "distillation", self._of(bench, Distillation(kept=self.kept))

    def _of(self, bench: Bench, way: Baseline) -> Live:
        """It in training, with a teacher that has learned nothing: its steps cost the same."""

        def untaught() -> FullModel:
            return FullModel(model=bench.live().model, cost=Cost())

        config = dataclasses.replace(way.configure(bench.config), compress=None)
        return bench.live(config, way.objective(bench.config, untaught))

    def _turn(self, bench: Bench, live: Live) -> tuple[float, float]:
        """Mean seconds of a step, by the clock on the wall and of processor time."""
        before, live.step = live.cost, 0  # as many penalties in every turn
        for _ in range(self.each):
            bench.advance(live)
        spent = (
            live.cost.seconds - before.seconds,
            live.cost.processor_seconds - before.processor_seconds,
        )
        return spent[0] / self.each, spent[1] / self.each
