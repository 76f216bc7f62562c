"""How much a cut may cost, in the user's own metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

from compressm.arguments import amount, function, real, shown, whole
from compressm.errors import InputError
from compressm.writeback.companions import Companion


@dataclass(frozen=True)
class Guard:
    """Undo a cut that costs more than the budget, and try a gentler one.

    Before a cut everything is remembered; after it (at once, or after some recovery steps) the
    metric is evaluated again. Too large a drop restores model, buffers, optimizers, companions
    and random number generators bit for bit, and the next attempt cuts half as much.

    The metric is evaluated once at the first step as well. Where it has not moved since, it cannot
    tell a good cut from a bad one, and the event says so.

    Attributes:
        evaluate: returns the metric of the live model, in the user's unit. It leaves no trace, and
            must not train.
        max_drop: what one cut may cost: accuracy points, nats, … With `relative`, a share of the
            metric before the cut.
        higher_is_better: False for a loss.
        relative: read `max_drop` and `total_drop` as shares.
        total_drop: what all cuts of the run may cost together (drops add up, gains do not pay
            back); None: no such limit.
        recovery_steps: judge after so many optimizer steps instead of at once. The steps are lost
            when the cut is undone.
        max_attempts: cuts tried, each half as deep as the one before.
        search: once one of them passed, spend the attempts that are left between it and the one
            before, halfway each time, and keep the deepest that passed. Not with recovery steps.
        on_failure: when no attempt passed: "wait" for the next step of the schedule, or "stop".
        companions: LR schedulers, gradient scalers, …: anything with `state_dict` and
            `load_state_dict` that moves during recovery steps.
        snapshot_folder: keep the copy of model and optimizers there instead of in memory.
    """

    evaluate: Callable[[], float]
    _: KW_ONLY
    max_drop: float
    higher_is_better: bool = True
    relative: bool = False
    total_drop: float | None = None
    recovery_steps: int = 0
    max_attempts: int = 3
    search: bool = False
    on_failure: Literal["wait", "stop"] = "wait"
    companions: Sequence[Companion] = ()
    snapshot_folder: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        function("evaluate", self.evaluate)
        amount("max_drop", self.max_drop)
        if self.total_drop is not None:
            amount("total_drop", self.total_drop)
        for name, least in (("recovery_steps", 0), ("max_attempts", 1)):
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        if self.search and self.recovery_steps:
            raise InputError(
                f"search: expected no recovery_steps beside it, got {self.recovery_steps}; every "
                "further attempt would lose them"
            )
        if self.on_failure not in ("wait", "stop"):
            raise InputError(f"on_failure: expected 'wait' or 'stop', got {self.on_failure!r}")
        _require_companions(self.companions)

    def drop(self, before: float, after: float) -> float:
        """What the cut cost, positive when the metric got worse; infinite when it is not a number.

        Raises:
            InputError: the metric before the cut is no number, so there is nothing to hold.
        """
        if not math.isfinite(before):
            raise InputError(f"evaluate: expected a finite metric before the cut, got {before!r}")
        if not math.isfinite(after):
            return math.inf
        worse = before - after if self.higher_is_better else after - before
        if not self.relative:
            return worse
        return worse / abs(before) if before else math.copysign(math.inf, worse) if worse else 0.0

    def is_blind(self, start: float, now: float, spent: float) -> bool:
        """Whether falling back from `now` to `start` would cost no more than a cut may.

        With the metric where it was before the training (chance level), every cut passes.
        """
        return self.drop(now, start) <= self.allowed(spent)

    def allowed(self, spent: float) -> float:
        """What the next cut may cost when earlier ones have cost `spent`."""
        if self.total_drop is None:
            return self.max_drop
        return min(self.max_drop, max(self.total_drop - spent, 0.0))


def as_metric(evaluate: Callable[[], Any]) -> float:
    """The number that `evaluate()` returns: a real one, or a tensor or array that holds one.

    Raises:
        InputError: it returned anything else, such as None or a dict of metrics.
    """
    value = evaluate()
    try:
        return real("evaluate", value)
    except InputError as error:
        name = getattr(evaluate, "__qualname__", type(evaluate).__name__)
        raise InputError(
            f"evaluate: expected a number from {name}(), it returned {shown(value)}; return the "
            "one metric that the cut may cost, for example result['eval_loss']"
        ) from error


def _require_companions(companions: Any) -> None:
    if not isinstance(companions, Sequence):
        raise InputError(
            f"companions: expected a list of schedulers, scalers, …, got {shown(companions)}; "
            "put it in a list"
        )
    for companion in companions:
        if not all(hasattr(companion, name) for name in ("state_dict", "load_state_dict")):
            raise InputError(
                "companions: expected objects with state_dict and load_state_dict, got "
                f"{shown(companion)}"
            )


def between(refused: Mapping[str, int], passed: Mapping[str, int]) -> dict[str, int]:
    """The plan halfway from one that cost too much to one that did not, nearer to the latter."""
    return {site: rank - int((rank - refused.get(site, rank)) / 2) for site, rank in passed.items()}


def gentler(plan: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    """The plan that takes half as many states from every layer, or gives it half as many.

    Rounded towards changing less.
    """
    return {site: sizes[site] - int((sizes[site] - rank) / 2) for site, rank in plan.items()}
