"""What an advice says about one cut, and about one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from compressm.advice.figures import Figures

NO_FIGURES = Figures()


@final
@dataclass(frozen=True, kw_only=True)
class CutAdvice:
    """One cut that was made, looked at and undone; or the model as it is.

    Attributes:
        method: by which states are ranked; empty of the model as it is.
        size: what was asked for: "rank 16", "tolerance 0.05", "ranks blocks.0=16,blocks.1=4".
        states: what each layer then has, by module path.
        parameters: of the whole model.
        state_bytes: of recurrent state for each sequence, all layers together.
        memory_mb: weights, buffers and the states of a batch, in 10⁶ bytes.
        figures: loss and metric, evaluated after the cut with no training after it.
        error: the largest relative error of what the states of a layer put out: on the data where
            the method looks at data, else the relative H2 error. A prediction where nothing was
            evaluated.
        energy_kept: the smallest share of a layer's energy that stays.
        milliseconds: of a step, the best of turns in which all cuts of the advice take part.
        time_ratio: to that of the model as it is.
        breaks: names of the limits that it does not hold.
        command: what makes this cut.
        notes: what else there is to say about it.
    """

    method: str
    size: str
    states: Mapping[str, int]
    parameters: int
    state_bytes: int
    memory_mb: float
    figures: Figures = NO_FIGURES
    error: float | None = None
    energy_kept: float | None = None
    milliseconds: float | None = None
    time_ratio: float | None = None
    breaks: tuple[str, ...] = ()
    command: str = ""
    notes: tuple[str, ...] = ()

    @property
    def loss(self) -> float | None:
        """The loss after the cut."""
        return self.figures.loss

    @property
    def metric(self) -> float | None:
        """The metric after the cut."""
        return self.figures.metric

    @property
    def total_states(self) -> int:
        """States of all layers together."""
        return sum(self.states.values())

    @property
    def holds(self) -> bool:
        """Whether it is within the budget."""
        return not self.breaks


@final
@dataclass(frozen=True, kw_only=True)
class LayerAdvice:
    """One layer.

    Attributes:
        site: module path.
        family: the layer family.
        states: that it has.
        fewest: that a cut can leave it.
        parameters, state_bytes: what each state costs, in the model and for each sequence.
        keeps: by method and by energy dropped, as in {"auto": {0.05: 12}}, the states that stay.
        reason: why it cannot be cut; None where it can.
        alone: by method, cuts of this layer alone, from large to small; empty unless asked for.
    """

    site: str
    family: str
    states: int
    fewest: int
    parameters: int
    state_bytes: int
    keeps: Mapping[str, Mapping[float, int]]
    reason: str | None = None
    alone: Mapping[str, tuple[CutAdvice, ...]] = field(default_factory=dict)
