"""A look around on a live model: cuts made, evaluated, timed and undone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from compressm.advice.budget import Budget
from compressm.advice.candidates import Grid, sizes, state_bytes, weight_bytes
from compressm.advice.commands import python_line, size_text
from compressm.advice.each import DEPTH, cut_alone, descend, first_that_fits, plans
from compressm.advice.figures import Evaluate, evaluated, timed_in_turns
from compressm.advice.layers import layers_of, uncuttable
from compressm.advice.result import Advice
from compressm.advice.rows import NO_FIGURES, CutAdvice
from compressm.advice.verdict import (
    Costs,
    broken,
    chosen,
    costs_to,
    pays,
    require_figures,
    share_of,
    verdict,
)
from compressm.engine.proposal import Proposal
from compressm.engine.survey import Survey
from compressm.engine.trials import Trials
from compressm.errors import CompressmError
from compressm.policies import Policy

# Cuts between the last that holds a limit on loss or metric and the first that does not.
_REFINED = 3


@final
@dataclass(frozen=True, kw_only=True)
class Question:
    """What somebody wants to know; the attributes are the arguments of `advise`.

    Attributes:
        each_layer: whether layers are cut alone, too.
        given: arguments that the line of a cut has to repeat, by their names.
    """

    grid: Grid
    budget: Budget
    evaluate: Evaluate | None
    higher_is_better: bool
    step: Callable[[], object] | None
    batch: int
    rounds: int
    each_layer: bool
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
        self._alone: dict[str, dict[str, list[CutAdvice]]] = {}  # by method and layer

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
            if ask.each_layer:
                self._each(method, survey, present, costs)
        if self._failed and not self._cuts:
            raise self._failed[0]
        rows = self._timed([present, *self._cuts])
        present, *cuts = (replace(row, breaks=broken(row, ask.budget, costs)) for row in rows)
        order = list(self._surveys)
        cuts.sort(key=lambda cut: (order.index(cut.method), -cut.total_states))
        layers = layers_of(self._surveys, ask.grid, self._alone)
        best = chosen(present, cuts, ask.budget, costs)
        words = verdict(
            present,
            cuts,
            best,
            ask.budget,
            costs,
            cuttable=any(layer.reason is None for layer in layers),
        )
        return Advice(
            layers=layers,
            present=present,
            cuts=tuple(cuts),
            budget=ask.budget,
            batch=ask.batch,
            best=best if best is not None and pays(best, present) else None,
            verdict=words,
            notes=(*self._notes, *uncuttable(layers), *self._not_asked()),
        )

    def _add(self, method: str, survey: Survey, policy: Policy) -> CutAdvice | None:
        """Look at one more cut, or know it already; None where it is none, or cannot be made."""
        states = self._trials.plan(policy, survey)
        for cut in self._cuts:
            if cut.method == method and cut.states == states:
                return cut
        found = self._looked(method, survey, policy)
        if found is None:
            return None
        row, proposal = found
        self._proposals.append(proposal)
        self._cuts.append(row)
        return row

    def _looked(
        self, method: str, survey: Survey, policy: Policy
    ) -> tuple[CutAdvice, Proposal] | None:
        """A cut made, looked at and undone; None where it is none, or cannot be made."""
        ask, states = self._ask, self._trials.plan(policy, survey)
        if all(states[n] == s.state_dim for n, s in survey.spectra.items()):
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
        return replace(row, method=method, size=size_text(policy), command=line), proposal

    def _each(self, method: str, survey: Survey, present: CutAdvice, costs: Costs) -> None:
        """Cut each layer alone, and then all of them as far as that says that each can go."""
        grid, budget = self._ask.grid, self._ask.budget
        quality = Budget(**budget.quality)
        alone: dict[str, list[CutAdvice]] = {}
        for site, spectrum in survey.spectra.items():

            def to(rank: int, site: str = site) -> CutAdvice | None:
                found = self._looked(method, survey, grid.layers({site: rank}))
                return found and replace(found[0], breaks=broken(found[0], quality, costs))

            fewest, depth = grid.fewest(spectrum), None if budget.limits else DEPTH
            alone[site] = cut_alone(spectrum, fewest, to, lambda cut: cut.holds, depth)
        self._alone[method] = alone
        ladder = plans(survey, alone, share_of(budget, present, costs), self._ask.batch)

        def holds_at(states: Mapping[str, int]) -> bool | None:
            fewer = {n: r for n, r in states.items() if r < survey.spectra[n].state_dim}
            row = self._add(method, survey, grid.layers(fewer)) if fewer else None
            return None if row is None else not broken(row, quality, costs)

        limits = {n: x for n, x in budget.cost.items() if n != "milliseconds"}
        if quality.limits:
            descend(ladder, holds_at)
        elif limits:

            def fits(states: Mapping[str, int]) -> bool:
                size = sizes(self._trials, survey, states, self._ask.batch)
                return all(size[name] <= limit for name, limit in limits.items())

            states = first_that_fits(ladder, fits)
            if states is not None:
                holds_at(states)

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
        require_figures(self._ask.budget, present)

    def _not_asked(self) -> list[str]:
        """What nobody asked for."""
        sites = list(next(iter(self._surveys.values())).sites.values())
        other = [
            name
            for name in sites[0].adapter.methods
            if name not in self._surveys and all(name in s.adapter.methods for s in sites)
        ]
        found = [f"Methods that were not looked at: {', '.join(other)}."] if other else []
        several = len(sites) > 1 and not self._trials.run.settings.uniform
        if several and self._ask.evaluate is not None and not self._ask.each_layer:
            found.append("What each layer alone would cost was not looked at (each_layer).")
        return found


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
