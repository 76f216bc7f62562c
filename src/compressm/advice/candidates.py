"""Which cuts are looked at: halves of the states, shares of the energy, what a limit allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from compressm.advice.budget import Budget
from compressm.arguments import share, whole
from compressm.engine.survey import Survey
from compressm.engine.trials import Trials
from compressm.policies import EnergyTolerance, FixedRank, LayerRanks, Policy
from compressm.spectrum import Spectrum

# So many halvings of the states, and so much of the energy dropped, unless somebody says which.
HALVINGS = 5
TOLERANCES = (0.05, 0.2)


@final
@dataclass(frozen=True, kw_only=True)
class Grid:
    """The sizes that are looked at for each method.

    Attributes:
        ranks: states to keep in every layer; None: halves of the largest layer.
        tolerances: shares of the energy to drop, layer by layer; None: two of them, and with
            `ranks` none.
        min_rank, multiple_of: as of every policy.
    """

    ranks: Sequence[int] | None = None
    tolerances: Sequence[float] | None = None
    min_rank: int = 1
    multiple_of: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no size."""
        for name in ("min_rank", "multiple_of"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        if self.ranks is not None:
            object.__setattr__(self, "ranks", [whole("ranks", rank, 1) for rank in self.ranks])
        if self.tolerances is not None:
            given = [share("tolerances", t, below_one=True) for t in self.tolerances]
            object.__setattr__(self, "tolerances", given)

    def rank(self, rank: int) -> FixedRank:
        """So many states in every layer."""
        return FixedRank(rank, min_rank=self.min_rank, multiple_of=self.multiple_of)

    def layers(self, states: Mapping[str, int]) -> LayerRanks:
        """So many states in these layers."""
        return LayerRanks(dict(states), min_rank=self.min_rank, multiple_of=self.multiple_of)

    def fewest(self, spectrum: Spectrum) -> int:
        """The states that a cut can leave a layer."""
        return spectrum.at_least(self.rank(1).constrain(1, spectrum.state_dim))

    def policies(
        self, trials: Trials, survey: Survey, budget: Budget, batch: int
    ) -> Sequence[Policy]:
        """Those of the grid, and the largest rank within each limit on size, else the smallest."""
        most = max(spectrum.state_dim for spectrum in survey.spectra.values())
        ranks, tolerances = self.ranks, self.tolerances
        if tolerances is None:
            tolerances = TOLERANCES if ranks is None else ()
        if ranks is None:
            ranks = [most >> depth for depth in range(1, HALVINGS + 1) if most >> depth]
        limits = {name: x for name, x in budget.cost.items() if name != "milliseconds"}
        # By size for each possible rank, the largest first: the model as it is.
        left = {
            rank: sizes(trials, survey, trials.plan(self.rank(rank), survey), batch)
            for rank in (range(most, 0, -1) if limits else ())
        }
        within = [
            next((rank for rank, size in left.items() if size[name] <= limit), 1)
            for name, limit in limits.items()
        ]
        energies = [
            EnergyTolerance(t, min_rank=self.min_rank, multiple_of=self.multiple_of)
            for t in tolerances
        ]
        return [*map(self.rank, [*ranks, *within]), *energies]


def sizes(
    trials: Trials, survey: Survey, states: Mapping[str, int], batch: int
) -> dict[str, float]:
    """What a plan leaves, from what each state costs; without a cut."""
    gone = {
        name: (spectrum.state_dim - states[name]) * spectrum.cost.parameters
        for name, spectrum in survey.spectra.items()
    }
    weights = float(weight_bytes(trials.run.model))
    weights -= sum(n * _bytes_each(survey, name) for name, n in gone.items())
    held = state_bytes(survey, states)
    return {
        "parameters": trials.run.parameters - sum(gone.values()),
        "state_bytes": held,
        "memory_mb": (weights + batch * held) / 1e6,
    }


def _bytes_each(survey: Survey, name: str) -> float:
    """Bytes of a parameter that a cut makes smaller; the rest of a model may have another dtype."""
    site = survey.sites[name]
    cut = [site.module.get_parameter(name) for name in site.adapter.parameters(site.module)]
    return sum(p.nbytes for p in cut) / max(sum(p.numel() for p in cut), 1)


def state_bytes(survey: Survey, states: Mapping[str, int]) -> int:
    """Bytes of recurrent state for each sequence, all layers together."""
    return sum(s.cost.state_bytes * states[name] for name, s in survey.spectra.items())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.nbytes for part in (model.parameters, model.buffers) for tensor in part())
