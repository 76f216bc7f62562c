"""A baseline, trained by its recipe from the first step to the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from compressm.baselines import Baseline
from compressm.experiments.bench import Figures, said
from compressm.experiments.kinds.base import Kind, Workplace


@final
@dataclass(frozen=True, kw_only=True)
class Trained(Kind):
    """Made by definitions that say `kind:` and the name of a baseline, with its settings."""

    baseline: Baseline

    def validate(self) -> None:
        """The baseline has looked at its settings itself."""

    def run(self, place: Workplace) -> Figures:
        bench = place.bench
        config = self.baseline.configure(bench.config)
        live = bench.live(config, self.baseline.objective(bench.config, place.full))
        found = bench.train(live, keep=place.own / "live.safetensors")
        events = [] if live.compressor is None else live.compressor.events
        return {**said(events), **found}
