"""A look around on a live model: cuts made, evaluated, timed and undone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from compressm.advice.budget import EXAMPLES, QUALITY, Budget
from compressm.advice.candidates import Grid, state_bytes, weight_bytes
from compressm.advice.commands import python_line, size_text
from compressm.advice.figures import Evaluate, evaluated, timed_in_turns
from compressm.advice.layers import layers_of, uncuttable
from compressm.advice.result import Advice
from compressm.advice.rows import NO_FIGURES, CutAdvice
from compressm.advice.verdict import broken, chosen, costs_to, verdict
from compressm.engine.proposal import Proposal
from compressm.engine.survey import Survey
from compressm.engine.trials import Trials
from compressm.errors import CompressmError, InputError
from compressm.policies import Policy

# Cuts between the last that holds a limit on loss or metric and the first that does not.
_REFINED = 3


@final
@dataclass(frozen=True, kw_only=True)
class Question:
    """What somebody wants to know; the attributes are the arguments of `advise`.

    Attributes:
        given: arguments that the line of a cut has to repeat, by their names.
    """

    grid: Grid
    budget: Budget
    evaluate: Evaluate | None
    higher_is_better: bool
    step: Callable[[], object] | None
    batch: int
    rounds: int
    given: tuple[str, ...]


@final
class Look:
    """One look around, from the present figures to the verdict.

    Args:
        trials: of the model.
        surveys: by method.
        question: what is asked.
        notes: to begin with.
    """

    def __init__(
        self,
        trials: Trials,
        surveys: Mapping[str, Survey],
        question: Question,
        notes: Sequence[str],
    ) -> None:
        self._trials, self._surveys, self._ask = trials, surveys, question
        self._notes = list(notes)
        self._cuts: list[CutAdvice] = []
        self._proposals: list[Proposal] = []  # of these cuts, in their order
        self._failed: list[CompressmError] = []

    def advice(self) -> Advice:
        """All of it."""
        ask, first = self._ask, next(iter(self._surveys.values()))
        with self._trials.cut(None):
            present = row_of(self._trials, first, None, ask.evaluate, ask.batch)
        self._require_figures(present)
        costs = costs_to(present, higher_is_better=ask.higher_is_better)
        quality = Budget(**ask.budget.quality)
        for method, survey in self._surveys.items():
            for policy in ask.grid.policies(self._trials, survey, ask.budget, ask.batch):
                self._add(method, survey, policy)
            if quality.limits:
                self._refine(method, survey, lambda cut: not broken(cut, quality, costs))
        if self._failed and not self._cuts:
            raise self._failed[0]
        rows = self._timed([present, *self._cuts])
        present, *cuts = (replace(row, breaks=broken(row, ask.budget, costs)) for row in rows)
        order = list(self._surveys)
        cuts.sort(key=lambda cut: (order.index(cut.method), -cut.total_states))
        layers = layers_of(self._surveys, ask.grid)
        best = chosen(present, cuts, ask.budget, costs)
        return Advice(
            layers=layers,
            present=present,
            cuts=tuple(cuts),
            budget=ask.budget,
            batch=ask.batch,
            best=best,
            verdict=verdict(
                present,
                cuts,
                best,
                ask.budget,
                costs,
                cuttable=any(layer.reason is None for layer in layers),
            ),
            notes=(*self._notes, *uncuttable(layers), *self._not_asked()),
        )

    def _add(self, method: str, survey: Survey, policy: Policy) -> CutAdvice | None:
        """Look at one more cut; None where it is none, or one that has been looked at."""
        ask, states = self._ask, self._trials.plan(policy, survey)
        known = [cut.states for cut in self._cuts if cut.method == method]
        if states in known or all(states[n] == s.state_dim for n, s in survey.spectra.items()):
            return None
        uniform = self._trials.run.settings.uniform
        line = python_line(policy, method, uniform=uniform, given=ask.given)
        try:
            proposal = self._trials.propose(survey, states)
            with self._trials.cut(proposal):
                row = row_of(self._trials, survey, proposal, ask.evaluate, ask.batch)
        except CompressmError as error:
            self._notes.append(f"Not looked at: {size_text(policy)} by {method}: {error}")
            self._failed.append(error)
            return None
        row = replace(row, method=method, size=size_text(policy), command=line)
        self._proposals.append(proposal)
        self._cuts.append(row)
        return row

    def _refine(self, method: str, survey: Survey, holds: Callable[[CutAdvice], bool]) -> None:
        """Bisect between the smallest rank that holds the limits on quality and the next below.

        Where all of them hold, and nobody said which to look at, smaller halves come first.
        """
        grid = self._ask.grid
        low, high = 0, max(spectrum.state_dim for spectrum in survey.spectra.values())
        asked = [(cut, cut.size.split()) for cut in self._cuts if cut.method == method]
        ranks = [(int(number), cut) for cut, (kind, number) in asked if kind == "rank"]
        for rank, cut in sorted(ranks, key=lambda pair: -pair[0]):
            if not holds(cut):
                low = rank
                break
            high = rank
        while not low and high > 1 and grid.ranks is None:
            row = self._add(method, survey, grid.rank(high // 2))
            if row is None:
                return
            low, high = (0, high // 2) if holds(row) else (high // 2, high)
        for _ in range(_REFINED if low else 0):
            middle = (low + high) // 2
            row = self._add(method, survey, grid.rank(middle)) if middle > low else None
            if row is None:
                return
            low, high = (low, middle) if holds(row) else (middle, high)

    def _timed(self, rows: Sequence[CutAdvice]) -> list[CutAdvice]:
        """The rows with the times of their steps; the first is the model as it is."""
        if self._ask.step is None:
            self._notes.append("No step was timed: nothing was given that makes one.")
            return list(rows)
        proposals = [None, *self._proposals]
        times = timed_in_turns(self._trials, proposals, self._ask.step, self._ask.rounds)
        return [
            replace(row, milliseconds=milliseconds, time_ratio=milliseconds / times[0])
            for row, milliseconds in zip(rows, times, strict=True)
        ]

    def _require_figures(self, present: CutAdvice) -> None:
        if self._ask.evaluate is None:
            self._notes.append("Loss and metric were not evaluated: nothing was given that does.")
            return
        for name in QUALITY:
            if name in self._ask.budget.limits and getattr(present, name) is None:
                raise InputError(
                    f"budget: {EXAMPLES[name]} needs a finite {name}, and the evaluation of the "
                    "model as it is gives none"
                )

    def _not_asked(self) -> list[str]:
        """Methods that nobody asked for."""
        sites = list(next(iter(self._surveys.values())).sites.values())
        other = [
            name
            for name in sites[0].adapter.methods
            if name not in self._surveys and all(name in s.adapter.methods for s in sites)
        ]
        return [f"Methods that were not looked at: {', '.join(other)}."] if other else []


def row_of(
    trials: Trials,
    survey: Survey,
    proposal: Proposal | None,
    evaluate: Evaluate | None,
    batch: int,
) -> CutAdvice:
    """The model as it is inside of a trial (None: of no cut), without method, size and line."""
    changes = survey.unchanged() if proposal is None else proposal.changes
    states = {change.site: change.after for change in changes}
    errors = [c.error if c.data_error is None else c.data_error for c in changes]
    energies = [c.energy_kept for c in changes if c.energy_kept is not None]
    model, held = trials.run.model, state_bytes(survey, states)
    return CutAdvice(
        method="",
        size="",
        states=states,
        parameters=trials.run.parameters,
        state_bytes=held,
        memory_mb=(weight_bytes(model) + batch * held) / 1e6,
        figures=NO_FIGURES if evaluate is None else evaluated(trials, evaluate),
        error=max((e for e in errors if e is not None and math.isfinite(e)), default=None),
        energy_kept=min(energies, default=None),
    )
