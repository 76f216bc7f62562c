"""A baseline, trained by its recipe from the first step to the last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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
        trunk = self._trunk(place)
        found = bench.train(live, keep=place.own / "live.safetensors", trunk=trunk)
        events = [] if live.compressor is None else live.compressor.events
        return {**said(events), **found}

    def _trunk(self, place: Workplace) -> Path | None:
        """Where runs that begin like this one leave their state before the cut."""
        names = self.baseline.beginning
        if not names:
            return None
        settings = (f"{name}-{getattr(self.baseline, name)}" for name in names)
        name = "-".join([type(self.baseline).__name__, *settings])
        return place.shared / f"{name}.safetensors"
