"""Has the ranking of the states settled? Spectra followed over training.

Balanced directions are matched from one measurement to the next by linear assignment on their
overlap |<v_i, v_j'>|, so a state keeps its identity when its rank changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressm.calibration import Calibration, Forward, Loss, calibration_of
from compressm.engine.schedule import WhenSettled
from compressm.engine.survey import Survey
from compressm.errors import InputError, MissingExtraError
from compressm.numerics import HankelMatrix, weyl_bound
from compressm.runtime.steady import steady


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What happened to one layer between two measurements.

    Attributes:
        step: of the later measurement.
        site: module path.
        rank_correlation: Spearman's ρ between the ranks of matched directions, weighted by their
            energy (states that carry nothing swap ranks all the time).
        stale_energy: share of the energy now in directions that a cut at the earlier measurement,
            discarding `tolerance`, would have removed.
        tolerance: that share at the time.
        moved: largest |σ_i' - σ_i| over ranks i.
        bound: ||H' - H||_2 >= moved (Weyl).
    """

    step: int
    site: str
    rank_correlation: float
    stale_energy: float
    tolerance: float
    moved: float
    bound: float


class Monitor:
    """Follows the spectra of all layers and says when their ranking has settled.

    A layer counts as settled when, for `patience` measurements in a row, the states that a cut at
    the previous measurement would have removed still hold at most `slack` times the energy that
    they held then, and the rank correlation is at least `min_correlation`.

    Args:
        model: as for `compressm.measure`, like method, data, forward, loss.
        tolerance: the share of energy a cut would discard.
        patience: measurements in a row.
        slack: >= 1.
        min_correlation: in [0, 1].
        method, data, forward, loss: see `compressm.measure`.

    Attributes:
        history: all drifts so far.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tolerance: float = 0.1,
        patience: int = 3,
        slack: float = 1.5,
        min_correlation: float = 0.9,
        method: str = "auto",
        data: Iterable[Any] | Calibration | None = None,
        forward: Forward | None = None,
        loss: Loss | None = None,
    ) -> None:
        if not 0 < tolerance < 1 or patience < 1 or slack < 1 or not 0 <= min_correlation <= 1:
            raise InputError(
                "expected 0 < tolerance < 1, patience >= 1, slack >= 1, 0 <= min_correlation <= 1; "
                f"got {tolerance}, {patience}, {slack}, {min_correlation}"
            )
        self.history: list[Drift] = []
        self._model, self._method = model, method
        self._tolerance, self._patience = tolerance, patience
        self._slack, self._min_correlation = slack, min_correlation
        self._calibration = calibration_of(data, forward, loss)
        self._last: dict[str, HankelMatrix] = {}
        self._calm: dict[str, int] = {}

    @classmethod
    def of(cls, schedule: WhenSettled, model: nn.Module) -> Monitor:
        """The one that says when a schedule takes the layers of a model for settled."""
        return cls(
            model,
            tolerance=schedule.tolerance,
            patience=schedule.patience,
            slack=schedule.slack,
            min_correlation=schedule.min_correlation,
        )

    @steady()
    def measure(self, step: int) -> list[Drift]:
        """Measure the model and compare it with the measurement before (none at first)."""
        return self.observe(Survey.of(self._model, self._method, self._calibration), step)

    def observe(self, survey: Survey, step: int) -> list[Drift]:
        """Compare an existing measurement with the one before."""
        drifts = []
        for site, measurement in survey.measurements.items():
            now, before = measurement.hankel_matrix(), self._last.get(site)
            self._last[site] = now
            unseen = measurement.spectrum.unseen
            if before is None or before.values.shape != now.values.shape or unseen:
                self._calm[site] = 0  # the first look, the first after a cut, or nothing to see
                continue
            drift = compare(before, now, step=step, site=site, tolerance=self._tolerance)
            calm = (
                drift.stale_energy <= self._slack * drift.tolerance
                and drift.rank_correlation >= self._min_correlation
            )
            self._calm[site] = self._calm[site] + 1 if calm else 0
            drifts.append(drift)
        self.history += drifts
        return drifts

    @property
    def settled(self) -> dict[str, bool]:
        """For each layer, whether its ranking has settled."""
        return {site: calm >= self._patience for site, calm in self._calm.items()}

    def settle_anew(self) -> None:
        """No layer has settled, until its ranking has been calm for `patience` more looks."""
        self._calm = dict.fromkeys(self._calm, 0)

    def state_dict(self) -> dict[str, Any]:
        """All that `observe` needs to go on from here."""
        last = {
            site: {"matrix": h.matrix, "values": h.values, "vectors": h.vectors}
            for site, h in self._last.items()
        }
        return {
            "last": last,
            "calm": dict(self._calm),
            "history": [asdict(drift) for drift in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.read_state(state)()

    def read_state(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Read what `state_dict` gave; what is returned goes on from there."""
        last = {
            site: HankelMatrix(**{name: part.cpu() for name, part in parts.items()})
            for site, parts in state["last"].items()
        }
        calm = {site: int(times) for site, times in state["calm"].items()}
        history = [Drift(**drift) for drift in state["history"]]

        def go_on() -> None:
            self._last, self._calm, self.history = last, calm, history

        return go_on


def match(before: HankelMatrix, after: HankelMatrix) -> Tensor:
    """(n,) for each direction of `before` its index in `after`, by maximal total overlap.

    (G, n) where the layer has groups, each of which is matched by itself.

    Raises:
        MissingExtraError: SciPy, which solves the assignment, is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingExtraError("scipy", "monitor") from error
    overlap = (before.vectors.mH @ after.vectors).abs().square()
    places = [
        torch.as_tensor(linear_sum_assignment(one.numpy(), maximize=True)[1], device="cpu")
        for one in overlap.view(-1, *overlap.shape[-2:])
    ]
    return torch.stack(places).view(before.values.shape)


def compare(
    before: HankelMatrix,
    after: HankelMatrix,
    *,
    step: int,
    site: str,
    tolerance: float,
    place: Tensor | None = None,
) -> Drift:
    """The drift of one layer from one measurement to a later one.

    `place` says where the directions of `before` are in `after`; None: matched here.

    Of a layer with groups: energies are those of all groups together, a cut would take the same
    number of each, and the correlation is the mean over groups, weighted by their energy.
    """
    place = match(before, after) if place is None else place
    total_before, total = float(before.values.sum()), float(after.values.sum())
    together = before.values if before.values.ndim == 1 else before.values.sum(0)
    tail = together.flip(0).cumsum(0).flip(0)
    doomed = tail <= tolerance * total_before
    stale = float(after.values.gather(-1, place)[..., doomed].sum()) / total if total else 0.0
    return Drift(
        step=step,
        site=site,
        rank_correlation=_correlation_of_all(place, before.values),
        stale_energy=stale,
        tolerance=float(before.values[..., doomed].sum()) / total_before if total_before else 0.0,
        moved=float((after.values - before.values).abs().max()),
        bound=weyl_bound(before, after),
    )


def _correlation_of_all(place: Tensor, energy: Tensor) -> float:
    """The correlation of each group, the mean of them weighted by their energies."""
    if place.ndim == 1:
        return _correlation(place, energy)
    weights = energy.sum(1)
    weights = (
        weights / weights.sum() if float(weights.sum()) else torch.ones_like(weights) / len(weights)
    )
    found = [_correlation(*one) for one in zip(place, energy, strict=True)]
    return float(weights @ torch.tensor(found, dtype=torch.float64, device="cpu"))


def _correlation(place: Tensor, energy: Tensor) -> float:
    """Correlation of the ranks 0 … n-1 with their new places, weighted by energy."""
    weight = energy / energy.sum() if float(energy.sum()) else torch.ones_like(energy) / len(energy)
    old, new = torch.arange(len(place), dtype=torch.float64, device="cpu"), place.double()
    old, new = old - (weight * old).sum(), new - (weight * new).sum()
    scale = float(((weight * old.square()).sum() * (weight * new.square()).sum()).sqrt())
    return float((weight * old * new).sum()) / scale if scale else 1.0
