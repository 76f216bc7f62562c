"""Which of the cuts to make, and whether any of them is worth it; in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from compressm.advice.budget import EXAMPLES, QUALITY, Budget
from compressm.advice.commands import BY_LAYER
from compressm.advice.rows import CutAdvice
from compressm.advice.tables import states_text
from compressm.errors import InputError

# A smaller share of memory, or of the step time, is not worth a cut.
LEAST = 0.05
_NOTHING = "Nothing is to be gained here: "
# Names of metrics may end with their unit.
_PERCENT = " %"
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


def require_figures(budget: Budget, present: CutAdvice) -> None:
    """Refuse limits on figures that the model as it is does not have.

    Raises:
        InputError: it names the first.
    """
    for name in budget.quality:
        if getattr(present, name) is None:
            raise InputError(
                f"budget: {EXAMPLES[name]} needs a finite {name}, and the evaluation of the model "
                "as it is gives none"
            )


def share_of(budget: Budget, present: CutAdvice, costs: Costs) -> Callable[[CutAdvice], float]:
    """What a cut costs of the limits on loss and metric, of the nearest; 1 is all that there is.

    Where there is no such limit, by how much the loss rises, else the metric gets worse.
    """

    def share(cost: float, limit: float) -> float:
        if limit > 0 or cost == math.inf:
            return max(cost, 0.0) / (limit or 1.0)
        return math.inf if cost > 0 else 0.0

    def cost_of(cut: CutAdvice) -> float:
        found, judge = costs(cut), _judge(present)
        if budget.quality:
            return max(share(found[name], limit) for name, limit in budget.quality.items())
        return 0.0 if judge is None else max(found[judge], 0.0)

    return cost_of


def chosen(
    present: CutAdvice, cuts: Sequence[CutAdvice], budget: Budget, costs: Costs
) -> CutAdvice | None:
    """The cut that a budget asks for.

    With a limit on loss or metric the smallest of those that hold: that is what the limit is for;
    of several of one size the one that costs least. With limits on size and time alone the one
    that costs least, by the loss, else the metric, else the largest; none where the model holds
    them as it is, and none whose figures are no numbers.
    """
    name = _judge(present)

    def cost(cut: CutAdvice) -> float:
        return 0.0 if name is None else costs(cut)[name]

    holding = [cut for cut in cuts if cut.holds and cost(cut) < math.inf]
    if not holding or not (budget.quality or present.breaks):
        return None
    if budget.quality:
        return min(holding, key=lambda cut: (*_size(cut), cost(cut)))
    return min(holding, key=lambda cut: (cost(cut), *(-size for size in _size(cut))))


def _judge(present: CutAdvice) -> str | None:
    """The figure by which cuts are compared."""
    return next((name for name in QUALITY if getattr(present, name) is not None), None)


def verdict(
    present: CutAdvice,
    cuts: Sequence[CutAdvice],
    best: CutAdvice | None,
    budget: Budget,
    costs: Costs,
    *,
    cuttable: bool,
) -> str:
    """What to do, in a sentence or two; `cuttable`: whether any layer could be smaller."""
    if not cuts:
        why = "no layer can be made smaller"
        if cuttable:
            why = "no size that was asked for is smaller than what there is"
        held = ", ".join(f"{name}={costs(present)[name]:.4g}" for name in present.breaks)
        return f"{_NOTHING}{why}{f', and the model has {held}' if held else ''}."
    content = bool(budget.cost) and not budget.quality and not present.breaks
    if best is None and budget.limits and not content:
        return _unheld(present, cuts, budget, costs)
    smallest = min(cuts, key=_size)
    judged = smallest if best is None else best
    if not pays(judged, present):
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
    said = [
        f"Cut {number} holds {budget}: {_name(best)}, with {_left(best, present)}.",
        _paid(best, present),
        _lucky(cuts, best, budget),
    ]
    return " ".join(sentence for sentence in said if sentence)


def _paid(best: CutAdvice, present: CutAdvice) -> str:
    """From where to where loss and metric go."""
    figures = (
        ("the loss", present.loss, best.loss),
        (present.figures.name, present.metric, best.metric),
    )
    told = [
        f"{name.removesuffix(_PERCENT)} goes from {_figure(name, before)} to {_figure(name, after)}"
        for name, before, after in figures
        if before is not None and after is not None
    ]
    return f"Right after it {' and '.join(told)}." if told else ""


def _figure(name: str, value: float) -> str:
    return f"{value:.4g}{_PERCENT if name.endswith(_PERCENT) else ''}"


def _lucky(cuts: Sequence[CutAdvice], best: CutAdvice, budget: Budget) -> str:
    """Which larger cuts by the same method cost more than the one that was chosen."""
    worse = [
        str(number)
        for number, cut in enumerate(cuts, start=1)
        if cut.method == best.method
        and all(n >= best.states[site] for site, n in cut.states.items())
        and not budget.quality.keys().isdisjoint(cut.breaks)
    ]
    if not worse:
        return ""
    several = len(worse) > 1
    return (
        f"But cut{'s' * several} {', '.join(worse)} keep{'s' * (not several)} more states and "
        f"{'do' if several else 'does'} not hold it, so the evaluation may be too coarse to tell; "
        "use more data for it."
    )


def _unheld(present: CutAdvice, cuts: Sequence[CutAdvice], budget: Budget, costs: Costs) -> str:
    """Which limit no cut reaches, or that they exclude each other."""
    least = {name: min(cuts, key=lambda cut: costs(cut)[name]) for name in budget.limits}
    missed = [
        f"{name}={limit:g} ({_least(name, costs(least[name])[name], least[name])})"
        for name, limit in budget.limits.items()
        if not costs(least[name])[name] <= limit
    ]
    if not missed and any(cut.holds for cut in cuts):
        return (
            f"No cut is advised: those that hold {budget} leave a model whose {_judge(present)} is "
            "no finite number."
        )
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


def _least(name: str, cost: float, cut: CutAdvice) -> str:
    """The best that there is of a limit that nothing holds."""
    if cost == math.inf:
        return f"after every cut the {name} is no finite number"
    verb = {"loss": "it rises by", "metric": "it gets worse by"}.get(name)
    said = f"the least is {cost:.4g}" if verb is None else f"{verb} at least {cost:.4g}"
    return f"{said}, with {_name(cut)}"


def _edge(cuts: Sequence[CutAdvice], name: str) -> CutAdvice:
    """The last cut that holds a limit: the smallest by its figures, or the largest by its size."""
    holding = [cut for cut in cuts if name not in cut.breaks]
    return (min if name in QUALITY else max)(holding, key=_size)


def _size(cut: CutAdvice) -> tuple[float, int, int]:
    return cut.memory_mb, cut.parameters, cut.total_states


def _name(cut: CutAdvice) -> str:
    method, states = "" if cut.method == "auto" else f", {cut.method}", states_text(cut.states)
    size = "each layer by itself" if cut.size.startswith(BY_LAYER) else cut.size
    return f"{states} state{'s' if states != '1' else ''} ({size}{method})"


def pays(cut: CutAdvice, present: CutAdvice) -> bool:
    """Whether a cut is needed for a limit, or saves memory or time that anybody would notice."""
    if present.breaks:
        return True
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
