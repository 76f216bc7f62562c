"""Layers that are cut alone, and what follows for a cut of all of them, each as far as it goes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from compressm.advice.rows import CutAdvice
from compressm.engine.survey import Survey
from compressm.spectrum import Spectrum

# Sizes of a layer alone where no limit says how far: a half, a quarter, an eighth of its states.
DEPTH = 3
# Cuts that are tried on the way down, and between the last that holds and the next.
_PROBED, _BETWEEN = 4, 3
# Bytes of a parameter, for the order in which layers are cut.
_FLOAT = 4


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """States of each layer, and what its cuts cost alone, added up."""

    states: Mapping[str, int]
    cost: float


def cut_alone(
    spectrum: Spectrum,
    fewest: int,
    look: Callable[[int], CutAdvice | None],
    holds: Callable[[CutAdvice], bool],
    depth: int | None,
) -> list[CutAdvice]:
    """Cuts of one layer, each to half of the states, from large to small.

    Args:
        spectrum: of the layer.
        fewest: states that a cut can leave it.
        look: the cut to so many states, if it can be made.
        holds: whether a cut is within all limits on quality; the first that is not ends the search.
        depth: cuts, at most.
    """
    found: dict[int, CutAdvice] = {}
    rank = 0 if spectrum.unseen else spectrum.state_dim // 2
    while rank >= max(fewest, 1):
        cut = look(rank)
        if cut is not None:
            found[sum(cut.states.values())] = cut
            if not holds(cut) or len(found) == depth:
                break
        rank //= 2
    return list(found.values())


def plans(
    survey: Survey,
    alone: Mapping[str, Sequence[CutAdvice]],
    cost_of: Callable[[CutAdvice], float],
    batch: int,
) -> list[Plan]:
    """From the model as it is to the smallest; each goes on where that costs least for its bytes.

    Args:
        survey: of the layers.
        alone: cuts of each layer alone, from large to small.
        cost_of: a cut; of a layer nothing comes behind a cut that costs more than any limit.
        batch: sequences whose states count as bytes.
    """
    curves = {site: _curve(survey, site, cuts, cost_of, batch) for site, cuts in alone.items()}
    now = dict.fromkeys(curves, 0)  # places on the curves
    states = {site: spectrum.state_dim for site, spectrum in survey.spectra.items()}
    found = [Plan(states=dict(states), cost=0.0)]
    while True:
        steps = [
            (curve[place].price_from(curve[now[site]]), site, place)
            for site, curve in curves.items()
            for place in range(now[site] + 1, len(curve))
        ]
        if not steps:
            return found
        _, site, place = min(steps)
        now[site], states[site] = place, curves[site][place].states
        total = sum(curve[now[name]].cost for name, curve in curves.items())
        found.append(Plan(states=dict(states), cost=total))


def descend(ladder: Sequence[Plan], holds: Callable[[Mapping[str, int]], bool | None]) -> None:
    """Try the last plan that should hold by its cost, then its neighbours, then what is between.

    Args:
        ladder: plans with costs as shares of a limit; the first is the model as it is.
        holds: makes the cut and says whether it is within the limit; None ends the search.
    """
    low, high = 0, len(ladder)
    place = max(i for i, plan in enumerate(ladder) if plan.cost <= 1) or 1
    for _ in range(_PROBED):
        if not low < place < high:
            break
        found = holds(ladder[place].states)
        if found is None:
            return
        low, high, place = (place, high, place + 1) if found else (low, place, place - 1)
    if high - low > 1 or high == len(ladder):
        return
    kept, gone = ladder[low].states, ladder[high].states
    (site,) = (name for name in kept if kept[name] != gone[name])
    larger, smaller = kept[site], gone[site]
    for _ in range(_BETWEEN):
        middle = (larger + smaller) // 2
        found = holds({**kept, site: middle}) if middle > smaller else None
        if found is None:
            return
        larger, smaller = (middle, smaller) if found else (larger, middle)


def first_that_fits(
    ladder: Sequence[Plan], fits: Callable[[Mapping[str, int]], bool]
) -> dict[str, int] | None:
    """The largest states on the way down that fit; None where none do, or no cut is needed."""
    if fits(ladder[0].states):
        return None
    for last, plan in itertools.pairwise(ladder):
        if fits(plan.states):
            (site,) = (name for name in plan.states if plan.states[name] != last.states[name])
            ranks = range(last.states[site], plan.states[site], -1)
            states = ({**plan.states, site: rank} for rank in ranks)
            return next(filter(fits, states), dict(plan.states))
    return None


@final
@dataclass(frozen=True, kw_only=True)
class _Point:
    """A size of one layer: what it costs and how many bytes it saves."""

    states: int
    cost: float
    bytes: float

    def price_from(self, larger: _Point) -> float:
        """What each byte costs that is saved on the way from a larger size."""
        return (self.cost - larger.cost) / (self.bytes - larger.bytes)


def _curve(
    survey: Survey,
    site: str,
    cuts: Sequence[CutAdvice],
    cost_of: Callable[[CutAdvice], float],
    batch: int,
) -> list[_Point]:
    """The layer as it is, and its cuts; a smaller one costs no less than a larger."""
    spectrum = survey.spectra[site]
    each = _FLOAT * spectrum.cost.parameters + batch * spectrum.cost.state_bytes
    curve = [_Point(states=spectrum.state_dim, cost=0.0, bytes=0.0)]
    for cut in cuts:
        cost, gone = max(cost_of(cut), curve[-1].cost), spectrum.state_dim - cut.states[site]
        curve.append(_Point(states=cut.states[site], cost=cost, bytes=gone * max(each, 1)))
        if cost == math.inf:
            break
    return curve
