"""What an advice says in all, as an object, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from compressm.advice.budget import Budget
from compressm.advice.rows import CutAdvice, LayerAdvice
from compressm.advice.tables import (
    LAYER_LEGEND,
    Cells,
    cut_table,
    each_table,
    layer_table,
    plain,
)


@final
@dataclass(frozen=True, kw_only=True)
class Advice:
    """What can be cut, what that costs and saves, and what to do; `print` shows it as tables.

    Attributes:
        layers: all compressible ones.
        present: the model as it is.
        cuts: those that were looked at, by method and from large to small.
        budget: the limits that were given.
        batch: sequences whose states count in `memory_mb`.
        best: the cut to make; None where there is none, where it saves next to nothing, or where no
            budget says what is wanted.
        verdict: what to do, in words.
        notes: what was not looked at, and why.
    """

    layers: tuple[LayerAdvice, ...]
    present: CutAdvice
    cuts: tuple[CutAdvice, ...]
    budget: Budget
    batch: int = 1
    best: CutAdvice | None = None
    verdict: str = ""
    notes: tuple[str, ...] = ()

    def curve(self, method: str | None = None) -> list[tuple[int, float]]:
        """(states of all layers, loss), from small to large, where the loss was evaluated.

        The metric where there is no loss; of one method, or of all.
        """
        rows = [cut for cut in self.cuts if method in (None, cut.method)]
        name = "metric" if self.present.loss is None else "loss"
        found = {(c.total_states, getattr(c, name)) for c in (self.present, *rows)}
        return sorted((states, value) for states, value in found if value is not None)

    def to_json(self) -> str:
        """One JSON object."""
        values: dict[str, Any] = dataclasses.asdict(self)
        values["budget"] = self.budget.limits
        values["curve"] = {method: self.curve(method) for method in self.methods}
        return json.dumps(values, indent=2, allow_nan=False)

    @property
    def methods(self) -> tuple[str, ...]:
        """By which states were ranked."""
        return tuple(dict.fromkeys(cut.method for cut in self.cuts))

    @property
    def table(self) -> Cells:
        """The model as it is, and all cuts by their numbers."""
        return cut_table(self.present, self.cuts, self.best, judged=bool(self.budget.limits))

    @property
    def legend(self) -> str:
        """What the columns of the table of cuts are."""
        several = f"{self.batch} sequences" if self.batch > 1 else "one sequence"
        said = {
            "bytes": "of recurrent state for a sequence",
            "MB": f"weights and the states of {several}",
            "ms": "a step, the best of turns",
            "rise": "of the loss",
            "error": "the largest of a layer's output, relative",
        }
        shown = [f"{name}: {text}." for name, text in said.items() if name in self.table.columns]
        return f"{' '.join(shown)} All right after the cut, with no training after it."

    @property
    def each_legend(self) -> str:
        """What the table of layers that were cut alone says; empty where there is none."""
        if not any(cuts for layer in self.layers for cuts in layer.alone.values()):
            return ""
        name = self.present.figures.name if self.present.loss is None else "the loss"
        return f"Each layer cut alone, the others as they are: states left, and how {name} changes."

    def each_table(self, names: Mapping[str, str] | None = None) -> Cells:
        """What cuts of single layers do; `names`: how layers are called."""
        judged = bool(self.budget.quality)
        return each_table(self.layers, self.present, judged=judged, names=names)

    def __str__(self) -> str:
        """The tables of layers and cuts, the verdict, what was not looked at, and the commands."""
        parts = ["Layers", plain(layer_table(self.layers)), LAYER_LEGEND]
        if self.each_legend:
            parts += ["", "Each layer", plain(self.each_table())]
            parts.append(self.each_legend)
        if self.cuts:
            parts += ["", "Cuts", plain(self.table), self.legend]
        parts += ["", self.verdict, *self.notes, ""]
        parts += [f"{number}: {cut.command}" for number, cut in enumerate(self.cuts, start=1)]
        return "\n".join(parts).rstrip()
