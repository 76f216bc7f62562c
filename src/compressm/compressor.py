"""Measure, plan, cut: once (`compress_`) or on a schedule inside a training loop (`Compressor`)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compressm.arguments import function, instance, refusing_old_names, whole
from compressm.calibration import Calibration, Forward, Loss, calibration_of, given_by
from compressm.checkpoints import watch_loads
from compressm.distributed.topology import Team
from compressm.engine.cut import RENAMED, make_cutter
from compressm.engine.guard import Guard
from compressm.engine.guarded_cut import Transaction
from compressm.engine.monitor import Monitor
from compressm.engine.schedule import Schedule, WhenSettled
from compressm.engine.survey import Survey, observe
from compressm.errors import InputError, NonFiniteError
from compressm.events import Event, EventLog
from compressm.families.base import Which
from compressm.policies.base import Policy
from compressm.runtime.steady import steady
from compressm.spectrum import Spectrum
from compressm.writeback import Averages

_NEVER = float("inf")


@steady()
def measure(
    model: nn.Module,
    *,
    method: str = "auto",
    data: Iterable[Any] | Calibration | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    process_group: Any = None,
    wrapper: nn.Module | None = None,
) -> dict[str, Spectrum]:
    """Hankel singular values (or their data-driven kin) of every compressible layer.

    Args:
        model: any module; layers are found by type through the registered adapters.
        method: "auto" or the name of a method of the layer families (docs: Methods).
        data: a few batches, or a `Calibration`, for methods that look at real activations.
        forward: `forward(model, batch)` where `model(batch)` is not the way to call it.
        loss: `loss(model, batch) -> scalar` for gradient-weighted methods.
        process_group, wrapper: see `Compressor`; a distributed model is measured by all its ranks.

    Returns:
        Spectrum by module path, in the order of the model.

    Raises:
        InputError: no compressible layer, an unknown method, or data that it needs is missing.
        UnstableSystemError: a layer has an eigenvalue on or outside the unit circle.
    """
    calibration = calibration_of(data, forward, loss)
    team = Team.of(model, wrapper, process_group)
    return dict(Survey.of(team.model, method, calibration, team.ranks).spectra)


@refusing_old_names(RENAMED)
@steady()
def compress_(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    policy: Policy,
    uniform: bool = False,
    method: str = "auto",
    data: Iterable[Any] | Calibration | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    transport: str = "project",
    select: Which = "largest",
    seed: int = 0,
    guard: Guard | None = None,
    ema: Sequence[nn.Module] = (),
    process_group: Any = None,
    wrapper: nn.Module | None = None,
) -> Event:
    """Cut the states that do not matter out of a live model and its optimizer(s), in place, once.

    Args:
        model: changed in place: its layers get new, smaller parameters.
        optimizer: one, several, a dict of them by parameter, or None; their groups and states
            follow the parameters, and so do those of optimizers inside them.
        policy: how many states each layer keeps.
        uniform: all layers that one configuration speaks for keep as many, the largest number of
            them, so that `config.state_size` is right and `from_pretrained` works without us.
        method, data, forward, loss: see `measure`.
        transport: optimizer moments follow the change of basis ("project") or start anew
            ("reset").
        select: which states stay: the "largest"; "smallest" and "random" are for ablations.
        seed: of the random selection.
        guard: undo the cut, or make it gentler, when it costs more than the guard allows.
        ema: `AveragedModel`s (or plain copies) that hold averages of the weights; they are cut too.
        process_group, wrapper: see `Compressor`.

    Returns:
        The event: what was measured and what was cut.

    Raises:
        InputError, UnstableSystemError: as `measure`; nothing has been changed.
        OptimizerError: a cut parameter is trainable but in no optimizer; nothing has been changed.
    """
    _require_policy(policy)
    if isinstance(guard, Guard) and guard.recovery_steps:
        raise InputError("guard: recovery_steps needs a training loop; use a Compressor")
    team = Team.of(model, wrapper, process_group)
    cutter = make_cutter(
        team, optimizer, uniform, method, data, forward, loss, transport, select, seed, guard, ema
    )
    transaction = Transaction(cutter, policy, guard)
    return transaction.whole(lambda: transaction.begin(step=None))


class Compressor:
    """Compression inside a training loop: call `step()` after every optimizer step.

    From then on `load_state_dict` takes states of other sizes, on the model, a part of it or what
    is around it: it resizes the layers, and the optimizers hold the new parameters. So a run
    resumes in any order: build model, optimizer and compressor as for a new run, then load the
    state of each.

    Args:
        model, optimizer, policy, uniform, method, data, forward, loss: as for `compress_`.
        transport, select, seed, ema: as for `compress_`.
        schedule: the steps at which to measure and cut, each of them acted on exactly once; or
            `WhenSettled`, which measures at intervals and cuts when the ranking has settled.
        guard: undo cuts that cost more than the user's budget, see `Guard`.
        log: where events go: a path (JSONL, written by the first rank; what cannot be written is
            a warning, and is written with the next event) or a callable (called on every rank).
        process_group: of replicas whose gradients are reduced by other means than DDP. Models in
            `DistributedDataParallel` or under `fully_shard` bring their own.
        wrapper: the `DistributedDataParallel` when `model` is only a part of what it wraps.

    With several ranks all of them build a compressor and call `step` alike. `model` is the DDP
    itself, wrapped before; it is renewed in place when its parameters are replaced.

    Attributes:
        events: all events so far.
        monitor: of a `WhenSettled` schedule, else None.
    """

    @refusing_old_names(RENAMED)
    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        policy: Policy,
        schedule: Schedule | WhenSettled,
        uniform: bool = False,
        method: str = "auto",
        data: Iterable[Any] | Calibration | None = None,
        forward: Forward | None = None,
        loss: Loss | None = None,
        transport: str = "project",
        select: Which = "largest",
        seed: int = 0,
        guard: Guard | None = None,
        ema: Sequence[nn.Module] = (),
        log: str | Path | Callable[[Event], None] | None = None,
        process_group: Any = None,
        wrapper: nn.Module | None = None,
    ) -> None:
        require_plan(policy=policy, schedule=schedule, log=log)
        team = Team.of(model, wrapper, process_group)
        cutter = make_cutter(
            team,
            optimizer,
            uniform,
            method,
            data,
            forward,
            loss,
            transport,
            select,
            seed,
            guard,
            ema,
        )
        self.schedule = schedule
        self.events: list[Event] = []
        self.monitor = _monitor(schedule, team.model) if isinstance(schedule, WhenSettled) else None
        self._cutter = cutter
        self._transaction = Transaction(cutter, policy, guard)
        self._log = log if not isinstance(log, (str, Path)) else None
        if isinstance(log, (str, Path)) and team.ranks.first:
            self._log = EventLog(log)
        self._step = self._acted = self._told = 0
        self._due: float = self._next_due()
        self._wake: float = -_NEVER  # step counts below this are counted and nothing else
        # A method that cannot work should say so now, not at the first cut.
        team.require_unwrapped()
        observe(team.model, method, given=given_by(cutter.calibration), ranks=team.ranks)
        for module in (team.model, *Averages(team.model, ema).modules):
            watch_loads(module)

        team.model.register_load_state_dict_post_hook(_AskAgain(self))  # type: ignore[no-untyped-call]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: no cut on the schedule, none to be judged."""
        return self._due == _NEVER

    @property
    def pending(self) -> bool:
        """Whether a cut has been made that the guard has yet to judge, and might undo."""
        return self._transaction.judged_at is not None

    def step(self, step: int | None = None) -> Event | None:
        """Count one optimizer step (or set the count to `step`) and cut if one is due.

        When the count jumps over several due steps, one is acted on at each of the next calls.
        While a guard waits for its recovery steps, further cuts wait too. The first call of a run
        evaluates the guard's metric, see `Guard`.

        The first call, also the first after weights were loaded or an event, looks into the
        optimizers.

        A call that raises has not happened: model, optimizers and the count itself are as before
        (or, when a pending cut has been undone and the next attempt at it failed, as before that
        cut), and the next call does what this one could not. Only what `log` raises, and Ctrl-C at
        the very end, come after a cut: it is made then, in `events`, and logged at the next call.

        Returns:
            The event if something was due, else None.

        Raises:
            OptimizerError: optimizers were given, and one of the layers has a trainable parameter
                that is in none of them.
        """
        step = self._step + 1 if step is None else whole("step", step, 0)
        if step < self._wake:
            self._step = step
            return None
        event = self._transaction.whole(partial(self._advance, step), self, self.monitor)
        if self._told < len(self.events):
            self._tell()
        # After an event the next call looks into the optimizers: what the loop gave them meanwhile
        # may have been collected before the cut.
        self._wake = self._due if event is None else -_NEVER
        return event

    def _advance(self, step: int) -> Event | None:
        self._step = step
        if self._wake != self._due:
            self._cutter.require_held()
            if not self._transaction.started:
                self._transaction.start(step)
            if step < self._due:
                return None
        try:
            event = self._act()
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self._step}: {error}") from error
        self.events.append(event)
        self._due, self._wake = self._next_due(), -_NEVER
        return event

    def _tell(self) -> None:
        """Give the log all events that it does not have, also those of calls that ended before."""
        with self._cutter.ranks.agreement("logging"):
            for event in self.events[self._told :]:
                if self._log is not None:
                    self._log(event)
                self._told += 1

    @steady()
    def _act(self) -> Event:
        """Judge the pending cut, or do what is due."""
        if self.pending:
            return self._transaction.judge(self._step)
        self._acted = int(self._due)
        return self._watch() if self.monitor else self._transaction.begin(self._step)

    def _watch(self) -> Event:
        """Measure; cut if the ranking of every layer has settled or it is time."""
        assert self.monitor is not None
        assert isinstance(self.schedule, WhenSettled)
        survey = self._cutter.survey()
        ranks = self._cutter.ranks
        with ranks.agreement("comparing with the measurement before"):
            self.monitor.observe(survey, self._step)
        settled = ranks.broadcast(all(self.monitor.settled.values()))
        if settled or self._acted >= self.schedule.latest:
            return self._transaction.begin(self._step, survey)
        return self._transaction.measured(self._step, survey)

    def state_dict(self) -> dict[str, Any]:
        """Step count, cuts done, events and random state, for a resumed run.

        While a cut is pending it holds the copy of model and optimizers that undoing it needs.

        Raises:
            InputError: a cut of a model under `fully_shard` is pending; save when it is judged.
        """
        return {
            "step": self._step,
            "acted": self._acted,
            "events": [event.to_json() for event in self.events],
            "told": self._told,
            "transaction": self._transaction.state_dict(),
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; model and optimizers are loaded before."""
        self._step, self._acted = int(state["step"]), int(state["acted"])
        self.events = [Event.from_json(line) for line in state["events"]]
        self._told = int(state.get("told", len(self.events)))
        self._transaction.load_state_dict(state["transaction"])
        if self.monitor is not None and state["monitor"] is not None:
            self.monitor.load_state_dict(state["monitor"])
        self._due = self._next_due()
        self.ask_again()

    def ask_again(self) -> None:
        """Look into the optimizers at the next `step`: the model may have other parameters."""
        self._wake = -_NEVER

    def _next_due(self) -> float:
        if self._transaction.judged_at is not None:
            return self._transaction.judged_at
        if self._transaction.stopped or self._cut_often_enough():
            return _NEVER
        due = self.schedule.next_after(self._acted)
        return _NEVER if due is None else due

    def _cut_often_enough(self) -> bool:
        if not isinstance(self.schedule, WhenSettled):
            return False
        over = sum(event.kind not in ("measured", "trial") for event in self.events)
        return over >= self.schedule.cuts


class _AskAgain:
    """Hook of the model: weights were loaded. In a copied or pickled model it does nothing."""

    def __init__(self, compressor: Compressor | None = None) -> None:
        self._compressor = None if compressor is None else weakref.ref(compressor)

    def __reduce__(self) -> tuple[type[_AskAgain], tuple[()]]:
        return _AskAgain, ()

    def __call__(self, module: nn.Module, incompatible_keys: object) -> None:
        compressor = None if self._compressor is None else self._compressor()
        if compressor is not None:
            compressor.ask_again()


def require_plan(*, policy: Any, schedule: Any, log: Any = None) -> None:
    """Refuse a policy, a schedule or a log that is none.

    Raises:
        InputError: it names the argument, and what was expected.
    """
    _require_policy(policy)
    hint = "for example Schedule.at(100, 200), or WhenSettled(every=50, latest=1000)"
    instance("schedule", schedule, Schedule, WhenSettled, hint=hint)
    if log is not None and not isinstance(log, (str, Path)):
        function("log", log, "event")


def _require_policy(policy: Any) -> None:
    instance("policy", policy, Policy, hint="for example EnergyTolerance(0.1) or FixedRank(16)")


def _monitor(schedule: WhenSettled, model: nn.Module) -> Monitor:
    return Monitor(
        model,
        tolerance=schedule.tolerance,
        patience=schedule.patience,
        slack=schedule.slack,
        min_correlation=schedule.min_correlation,
    )
