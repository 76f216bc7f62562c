"""A model that is cut when the ranking of its states has settled, not at a step chosen before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from compressm.compressor import Compressor
from compressm.data.options import check_at_least
from compressm.engine.schedule import WhenSettled
from compressm.errors import ConfigError
from compressm.experiments.bench import Figures, said
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.policies import FixedRank


@final
@register_kind("settled")
@dataclass(frozen=True, kw_only=True)
class Settled(Kind):
    """One cut, by the schedule `WhenSettled` with its own settings.

    Models count for the choice from the latest moment on, whenever the cut was made.

    Attributes:
        kept: states that every layer keeps.
        every: share of the steps from one measurement to the next.
        latest: share of the steps at which the model is cut at the latest.
        method: see `compressm.compress_`.
        batches: training batches that data-driven methods look at.
    """

    kept: int
    every: float = 0.01
    latest: float = 0.5
    method: str = "auto"
    batches: int = 8

    def validate(self) -> None:
        check_at_least("kept", self.kept, 1)
        check_at_least("batches", self.batches, 1)
        if not 0 < self.every <= self.latest <= 1:
            raise ConfigError(
                "settled: expected shares 0 < every <= latest <= 1, got "
                f"every={self.every}, latest={self.latest}"
            )

    def run(self, place: Workplace) -> Figures:
        bench = place.bench
        live = bench.live()
        live.last_cut = round(self.latest * bench.steps)
        live.compressor = Compressor(
            live.model,
            live.optimizer,
            policy=FixedRank(self.kept),
            schedule=WhenSettled(
                every=max(1, round(self.every * bench.steps)), latest=live.last_cut
            ),
            uniform=True,
            method=self.method,
            data=bench.calibration(self.batches),
            seed=bench.config.seed,
        )
        found = bench.train(live, keep=place.own / "live.safetensors")
        events = live.compressor.events
        cuts = [event.step for event in events if event.kind == "cut"]
        return {**said(events), **found, "cut_step": cuts[0] if cuts else None}
