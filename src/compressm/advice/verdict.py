"""Which of the cuts to make, and whether any of them is worth it; in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from compressm.advice.budget import EXAMPLES, QUALITY, Budget
from compressm.advice.rows import CutAdvice
from compressm.advice.tables import states_text

# A smaller share of memory, or of the step time, is not worth a cut.
LEAST = 0.05
_NOTHING = "Nothing is to be gained here: "
Costs = Callable[[CutAdvice], Mapping[str, float]]


def costs_to(present: CutAdvice, *, higher_is_better: bool) -> Costs:
    """What a cut costs, in the terms of a budget; infinite where it is not known."""

    def worse(after: float | None, before: float | None, sign: int) -> float:
        return math.inf if after is None or before is None else sign * (after - before)

    def costs(cut: CutAdvice) -> Mapping[str, float]:
        return {
            "loss": worse(cut.loss, present.loss, 1),
            "metric": worse(cut.metric, present.metric, -1 if higher_is_better else 1),
            "parameters": cut.parameters,
            "state_bytes": cut.state_bytes,
            "memory_mb": cut.memory_mb,
            "milliseconds": math.inf if cut.milliseconds is None else cut.milliseconds,
        }

    return costs


def broken(cut: CutAdvice, budget: Budget, costs: Costs) -> tuple[str, ...]:
    """The limits that a cut does not hold, by name."""
    found = costs(cut)
    return tuple(name for name, limit in budget.limits.items() if not found[name] <= limit)


def chosen(present: CutAdvice, cuts: Sequence[CutAdvice], budget: Budget) -> CutAdvice | None:
    """The cut that a budget asks for.

    With a limit on loss or metric the smallest of those that hold: that is what the limit is for.
    With limits on size and time alone the one with the most states, which costs least; none where
    the model holds them as it is.
    """
    holding = [cut for cut in cuts if cut.holds]
    if not holding or not (budget.quality or present.breaks):
        return None
    if budget.quality:
        return min(holding, key=_size)
    return max(holding, key=_size)


def verdict(
    present: CutAdvice,
    cuts: Sequence[CutAdvice],
    best: CutAdvice | None,
    budget: Budget,
    costs: Costs,
) -> str:
    """What to do, in a sentence or two."""
    if not cuts:
        return f"{_NOTHING}no layer can be made smaller."
    content = bool(budget.cost) and not budget.quality and not present.breaks
    if best is None and budget.limits and not content:
        return _unheld(present, cuts, budget, costs)
    smallest = min(cuts, key=_size)
    needed = bool(present.breaks)
    judged = smallest if best is None else best
    if not (needed or _worth(judged, present)):
        even = "even " if best is None else ""
        return f"{_NOTHING}{even}{_name(judged)} would have {_left(judged, present)}."
    if best is None:
        held = (
            f"No cut is needed for the budget: the model holds {budget} as it is."
            if content
            else "No budget was given, so none is chosen; say what a cut may cost, or what it must "
            f"reach: {', '.join(EXAMPLES.values())}."
        )
        return (
            f"The smallest cut that was looked at is {_name(smallest)}, with "
            f"{_left(smallest, present)}. {held}"
        )
    number = 1 + next(i for i, cut in enumerate(cuts) if cut is best)
    return f"Cut {number} holds {budget}: {_name(best)}, with {_left(best, present)}."


def _unheld(present: CutAdvice, cuts: Sequence[CutAdvice], budget: Budget, costs: Costs) -> str:
    """Which limit no cut reaches, or that they exclude each other."""
    least = {name: min(cuts, key=lambda cut: costs(cut)[name]) for name in budget.limits}
    missed = [
        f"{name}={limit:g} (the least is {costs(least[name])[name]:.4g}, with {_name(least[name])})"
        for name, limit in budget.limits.items()
        if not costs(least[name])[name] <= limit
    ]
    if missed:
        nothing = "" if present.breaks else _NOTHING
        sentence = f"{nothing}no cut that was looked at reaches {' or '.join(missed)}."
        return sentence[0].upper() + sentence[1:]
    single = [
        f"{name} holds {'down to' if name in QUALITY else 'from'} "
        f"{_name(_edge(cuts, name))}{'' if name in QUALITY else ' on'}"
        for name in budget.limits
    ]
    return f"No cut that was looked at holds {budget} together: {', '.join(single)}."


def _edge(cuts: Sequence[CutAdvice], name: str) -> CutAdvice:
    """The last cut that holds a limit: the smallest by its figures, or the largest by its size."""
    holding = [cut for cut in cuts if name not in cut.breaks]
    return (min if name in QUALITY else max)(holding, key=_size)


def _size(cut: CutAdvice) -> tuple[float, int, int]:
    return cut.memory_mb, cut.parameters, cut.total_states


def _name(cut: CutAdvice) -> str:
    method, states = "" if cut.method == "auto" else f", {cut.method}", states_text(cut.states)
    return f"{states} state{'s' if states != '1' else ''} ({cut.size}{method})"


def _worth(cut: CutAdvice, present: CutAdvice) -> bool:
    """Whether a cut saves memory or time that anybody would notice."""
    faster = cut.time_ratio is not None and cut.time_ratio <= 1 - LEAST
    return faster or cut.memory_mb <= (1 - LEAST) * present.memory_mb


def _left(cut: CutAdvice, present: CutAdvice) -> str:
    shares = [
        f"{_percent(cut.parameters, present.parameters)} of the parameters",
        f"{_percent(cut.state_bytes, present.state_bytes)} of the state bytes",
        f"{_percent(cut.memory_mb, present.memory_mb)} of the memory",
    ]
    if cut.time_ratio is not None:
        shares.append(f"{100 * cut.time_ratio:.0f} % of the step time")
    slow = cut.time_ratio is not None and cut.time_ratio > 1 - LEAST
    return f"{', '.join(shares[:-1])} and {shares[-1]}{': no time is saved' if slow else ''}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"
