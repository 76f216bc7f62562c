"""What could be cut from a live model, tried out and undone: `advise`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compressm.advice.budget import EXAMPLES, Budget
from compressm.advice.candidates import Grid
from compressm.advice.figures import Evaluate, forward_pass, mean_loss
from compressm.advice.look import Look, Question
from compressm.advice.result import Advice
from compressm.arguments import function, instance, shown, whole
from compressm.calibration import Calibration, Forward, Loss
from compressm.engine.settings import CutSettings
from compressm.engine.training_run import TrainingRun
from compressm.engine.trials import trying
from compressm.errors import InputError
from compressm.runtime.steady import steady


@steady()
def advise(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    evaluate: Evaluate | None = None,
    higher_is_better: bool = True,
    data: Iterable[Any] | Calibration | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    methods: Sequence[str] = ("auto",),
    budget: Budget | str | None = None,
    step: Callable[[], object] | None = None,
    batch: int = 1,
    ranks: Sequence[int] | None = None,
    tolerances: Sequence[float] | None = None,
    min_rank: int = 1,
    multiple_of: int = 1,
    uniform: bool = False,
    rounds: int = 5,
    each_layer: bool = False,
) -> Advice:
    """Which layers of a live model can be cut, how far, at what loss, and for what gain.

    Every method measures once, all of them in one pass over the data. A handful of cuts are then
    made on the live model, evaluated, timed, and undone: model, buffers, optimizers and random
    numbers are afterwards bit for bit as they were. What is evaluated is the model right after the
    cut, with no training after it.

    Args:
        model: any module with compressible layers.
        optimizer: that trains it, if one does; see `compress_`.
        evaluate: returns the metric as a number, or a dict with "loss", with one metric under its
            own name, or with both. Without it the loss of `data` is taken, where `loss` is given.
        higher_is_better: whether a larger metric is better; a loss is better when it is smaller.
        data, forward, loss: see `measure`; the first batch is the step that is timed.
        methods: by which states are ranked, see `measure`.
        budget: limits that a cut must hold, as a `Budget` or as text, such as
            "loss=+0.02, parameters=1.2M"; it chooses one.
        step: what is timed instead of a forward pass of the first batch in evaluation mode. It must
            not change the weights.
        batch: sequences whose states count as memory.
        ranks: states to keep, size by size; None: halves of what there is.
        tolerances: shares of the energy to drop, as further sizes; None: two of them, and none
            where `ranks` are given.
        min_rank, multiple_of: as of every policy.
        uniform: see `compress_`.
        rounds: turns in which the steps of all cuts are timed.
        each_layer: also cut every layer alone, to halves of its states as long as the limits on
            loss and metric hold (three times without a budget), and all of them together, as far
            as that says that each can go. It takes a few evaluations for each layer.

    Returns:
        The advice; printed it is a table.

    Raises:
        InputError, UnstableSystemError: as `measure`; a budget that nothing given can judge.
    """
    instance("model", model, nn.Module, hint="for files there is `compressm advise PATH`")
    limits = Budget() if budget is None else budget
    limits = Budget.parse([limits]) if isinstance(limits, str) else limits
    instance("budget", limits, Budget, hint='for example "loss=+0.02, parameters=1.2M"')
    names = _names(methods)
    for name, given in (("evaluate", evaluate), ("step", step)):
        if given is not None:
            function(name, given)
    instance("higher_is_better", higher_is_better, bool)
    settings = CutSettings(method=names[0], uniform=uniform, data=data, forward=forward, loss=loss)
    run = TrainingRun.of(model, optimizer, settings)
    calibration, notes = settings.calibration, []
    if evaluate is None and calibration is not None and calibration.loss is not None:
        evaluate = mean_loss(run.model, calibration)
        notes.append("The loss is that of the batches that the cuts looked at.")
    if step is None and calibration is not None:
        step = forward_pass(run.model, calibration)
    instance("each_layer", each_layer, bool)
    if each_layer:
        _require_single(uniform, evaluate)
    arguments = {"optimizer": optimizer, "data": data, "forward": forward, "loss": loss}
    question = Question(
        grid=Grid(ranks=ranks, tolerances=tolerances, min_rank=min_rank, multiple_of=multiple_of),
        budget=limits,
        evaluate=evaluate,
        higher_is_better=higher_is_better,
        step=step,
        batch=whole("batch", batch, 1),
        rounds=whole("rounds", rounds, 1),
        each_layer=each_layer,
        given=tuple(name for name, value in arguments.items() if value is not None),
    )
    _require_judges(question)
    surveys = run.surveys(names)
    return trying(run, lambda trials: Look(trials, surveys, question, notes).advice())


def _names(methods: Any) -> list[str]:
    if isinstance(methods, str) or not isinstance(methods, Sequence) or not methods:
        raise InputError(
            f"methods: expected a list of names, got {shown(methods)}; for example ['auto']"
        )
    return list(dict.fromkeys(methods))


def _require_single(uniform: bool, evaluate: Evaluate | None) -> None:
    """Refuse to cut layers alone where that cannot be, or says nothing."""
    if uniform:
        raise InputError("each_layer: with uniform=True all layers have one size; leave one out")
    if evaluate is None:
        raise InputError(
            "each_layer: it needs something that evaluates the model; give evaluate=, a function "
            "that returns {'loss': …} or the metric"
        )


def _require_judges(question: Question) -> None:
    """Refuse limits that nothing given can judge, before anything is computed."""
    for name in question.budget.quality:
        if question.evaluate is None:
            raise InputError(
                f"budget: {EXAMPLES[name]} needs something that evaluates the model; give evaluate="
                ", a function that returns {'loss': …} or the metric"
            )
    if "milliseconds" in question.budget.limits and question.step is None:
        raise InputError("budget: milliseconds needs a step to time; give step= or data=")
