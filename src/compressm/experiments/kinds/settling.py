"""Do the ranks of states settle early, and does what an early cut removes come back?

A model is trained without a cut, and measured on the way. G groups, n directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from compressm.data.options import check_at_least
from compressm.engine.monitor import compare, match
from compressm.engine.survey import Survey
from compressm.errors import ConfigError
from compressm.experiments.bench import Bench, Figures, Live
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.families.base import Measurement
from compressm.numerics import HankelMatrix
from compressm.runtime.steady import steady


@final
@register_kind("settling")
@dataclass(frozen=True, kw_only=True)
class Settling(Kind):
    """The spectrum of an uncut model at a first share of its steps, against all later ones.

    Directions are followed from each measurement to the next as `Monitor` does it, so the places
    in which those of the first measurement stand later are known.

    Attributes:
        first: share of the steps at the first measurement, the moment of a cut.
        looks: measurements after it, equally spaced up to the last step.
        tolerance: share of the energy that the cut would discard.
        method: see `compressm.measure`.
        batches: training batches that data-driven methods look at.
    """

    first: float = 0.1
    looks: int = 9
    tolerance: float = 0.1
    method: str = "auto"
    batches: int = 8

    def validate(self) -> None:
        check_at_least("looks", self.looks, 1)
        check_at_least("batches", self.batches, 1)
        for name in ("first", "tolerance"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a share in (0, 1), got {getattr(self, name)}")

    def run(self, place: Workplace) -> Figures:
        bench = place.bench
        followed: dict[str, Followed] = {}
        methods: set[str] = set()

        def look(live: Live) -> None:
            survey = self._measured(bench, live)
            methods.update(survey.methods.values())
            for site, measurement in survey.measurements.items():
                followed.setdefault(site, Followed(self.tolerance)).add(
                    measurement, live.step, site
                )

        start, steps = round(self.first * bench.steps), bench.steps
        at = {start + round((steps - start) * k / self.looks) for k in range(self.looks + 1)}
        trained = bench.train(bench.live(), at=dict.fromkeys(at, look))
        layers = {site: layer.rows for site, layer in followed.items()}
        return {"methods": sorted(methods), "layers": layers, **trained}

    @steady()
    def _measured(self, bench: Bench, live: Live) -> Survey:
        return Survey.of(live.model, self.method, bench.calibration(self.batches))


class Followed:
    """One layer over the training.

    Attributes:
        rows: figures of each measurement, the first included. "doomed" is what a cut at the first
            would have removed: its share of the energy then, and now.
    """

    def __init__(self, tolerance: float) -> None:
        self.rows: list[Figures] = []
        self._tolerance = tolerance
        self._first: HankelMatrix | None = None
        self._last: HankelMatrix | None = None
        self._place: Tensor | None = None  # where the directions of the first are in the last

    def add(self, measurement: Measurement, step: int, site: str) -> None:
        """Compare a measurement with the first."""
        now = measurement.hankel_matrix()
        first, last = self._first or now, self._last or now
        moved = match(last, now)
        self._place = moved if self._place is None else moved.gather(-1, self._place)
        self._first, self._last = first, now
        drift = compare(
            first, now, step=step, site=site, tolerance=self._tolerance, place=self._place
        )
        self.rows.append(
            {
                "step": step,
                "rank_correlation": drift.rank_correlation,
                "doomed_at_first_percent": 100 * drift.tolerance,
                "doomed_now_percent": 100 * drift.stale_energy,
                "states_for_energy": measurement.spectrum.rank_for_energy(self._tolerance),
            }
        )
