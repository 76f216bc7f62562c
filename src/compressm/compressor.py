"""Compression inside a training loop, on a schedule: `Compressor`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compressm.arguments import refusing_old_names, whole
from compressm.calibration import Calibration, Forward, Loss, given_by
from compressm.checkpoints import watch_loads
from compressm.engine.after_load import AfterLoad
from compressm.engine.event_book import EventBook
from compressm.engine.guard import Guard
from compressm.engine.guarded_cut import cuts_of
from compressm.engine.joint_fit import JointFit
from compressm.engine.monitor import Monitor
from compressm.engine.new_sizes import require_growable
from compressm.engine.saved_state import entry, optional
from compressm.engine.schedule import Schedule, WhenSettled
from compressm.engine.settings import RENAMED, CutSettings, require_plan
from compressm.engine.survey import observe
from compressm.engine.training_run import TrainingRun
from compressm.errors import NonFiniteError
from compressm.events import Event, lasting
from compressm.families.base import Which
from compressm.policies.base import Policy
from compressm.runtime.steady import steady
from compressm.version import stamp, unstamped
from compressm.writeback import Averages

_NEVER = float("inf")


class Compressor:
    """Compression inside a training loop: call `step()` after every optimizer step.

    From then on `load_state_dict` takes states of other sizes, on the model, a part of it or what
    is around it: it resizes the layers, and the optimizers hold the new parameters. So a run
    resumes in any order: build model, optimizer and compressor as for a new run, then load the
    state of each.

    Args:
        model, optimizer, policy, uniform, method, data, forward, loss: as for `compress_`.
        transport, select, seed, joint_fit, ema: as for `compress_`.
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

    With a guard that has recovery steps, call `finish()` after the last step.

    Attributes:
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
        joint_fit: JointFit | None = None,
        guard: Guard | None = None,
        ema: Sequence[nn.Module] = (),
        log: str | Path | Callable[[Event], None] | None = None,
        process_group: Any = None,
        wrapper: nn.Module | None = None,
    ) -> None:
        require_plan(policy=policy, schedule=schedule, log=log)
        settings = CutSettings(
            method=method,
            uniform=uniform,
            data=data,
            forward=forward,
            loss=loss,
            transport=transport,
            select=select,
            seed=seed,
            joint_fit=joint_fit,
            guard=guard,
            ema=ema,
        )
        run = TrainingRun.of(
            model, optimizer, settings, wrapper=wrapper, process_group=process_group
        )
        self.schedule = schedule
        self.monitor = (
            Monitor.of(schedule, run.model) if isinstance(schedule, WhenSettled) else None
        )
        self._run, self._cuts = run, cuts_of(run, policy)
        self._book = EventBook(log, run.ranks)
        self._step = self._last_due = 0
        self._optimizers_checked = False
        self._next_due: float = self._due_after(self._last_due)
        # A method that cannot work should say so now, not at the first cut.
        run.distributed.require_unwrapped()
        sites, _ = observe(run.model, method, given=given_by(settings.calibration), ranks=run.ranks)
        if policy.grows:
            require_growable(sites, {name: site.state_dim + 1 for name, site in sites.items()})
        for module in (run.model, *Averages(run.model, settings.ema).modules):
            watch_loads(module)
        run.model.register_load_state_dict_post_hook(AfterLoad(self.check_optimizers_again))  # type: ignore[no-untyped-call]

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return self._book.events

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: no cut on the schedule, none to be judged."""
        return self._next_due == _NEVER

    @property
    def pending(self) -> bool:
        """Whether a cut has been made that the guard has yet to judge, and might undo."""
        return self._cuts.pending is not None

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
        if self._optimizers_checked and step < self._next_due:
            self._step = step
            return None
        event = self._altogether(partial(self._advance, step))
        if event is None:
            self._optimizers_checked = True
        return event

    def finish(self) -> Event | None:
        """Judge the cut that waits for its verdict, if there is one: the training ends here.

        Without this call a cut whose recovery steps reach beyond the end of the training stays, and
        nobody has looked at what it cost. It is judged by the metric as it is now; where that is
        more than the budget, everything is as before the cut, and no gentler one is tried. Another
        call does nothing, and a training that goes on after all goes on with `step`.

        Returns:
            The event of the verdict ("accepted" or "rejected"), None if no cut was pending.
        """
        if self._cuts.pending is None:
            self._book.tell()
            return None
        return self._altogether(self._judge_last)

    def _altogether(self, work: Callable[[], Event | None]) -> Event | None:
        """Do it or, when anything raises, nothing of it; then tell the log."""
        event = self._cuts.all_or_nothing(work, self, self._book, self.monitor)
        self._book.tell()
        return event

    def _advance(self, step: int) -> Event | None:
        self._step = step
        if not self._optimizers_checked:
            self._run.require_held()
            self._cuts.begin(step)
            if step < self._next_due:
                return None
        try:
            event = self._act()
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self._step}: {error}") from error
        return self._recorded(event)

    @steady()
    def _judge_last(self) -> Event:
        assert self._cuts.pending is not None
        return self._recorded(self._cuts.pending.judge(self._step, last=True))

    def _recorded(self, event: Event) -> Event:
        """What has happened is in the books."""
        self.events.append(event)
        self._next_due = self._due_after(self._last_due)
        # What the loop gave the optimizers meanwhile may have been collected before the cut.
        self._optimizers_checked = False
        return event

    @steady()
    def _act(self) -> Event:
        """Judge the pending cut, or do what is due."""
        if self._cuts.pending is not None:
            return self._cuts.pending.judge(self._step)
        self._last_due = int(self._next_due)
        if self.monitor is None:
            return self._cuts.cut(self._step)
        return self._measure(self.monitor)

    def _measure(self, monitor: Monitor) -> Event:
        """Measure; cut if the ranking of every layer has settled or it is time."""
        survey, ranks = self._run.survey(), self._run.ranks
        with ranks.agreement("comparing with the measurement before"):
            monitor.observe(survey, self._step)
        settled = ranks.broadcast(all(monitor.settled.values()))
        # No step is due after the last at which a schedule of this kind cuts, settled or not.
        if settled or self.schedule.next_after(self._last_due) is None:
            event = self._cuts.cut(self._step, survey)
            monitor.settle_anew()  # also where nothing was cut, or the cut is undone later
            return event
        return self._cuts.measured(self._step, survey)

    def state_dict(self) -> dict[str, Any]:
        """Step count, cuts done, events and random state, for a resumed run.

        While a cut is pending it holds the copy of model and optimizers that undoing it needs.

        Raises:
            InputError: a cut of a model under `fully_shard` is pending; save when it is judged.
        """
        return {
            **stamp(),
            "step": self._step,
            "acted": self._last_due,
            **self._book.state_dict(),
            "transaction": self._cuts.state_dict(),
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; model and optimizers are loaded before.

        A file that `log` names loses the events that a killed run has written after that moment.

        Raises:
            CheckpointError: the state is none of a compressor, or is damaged, or a newer version
                of compressm made it; nothing has been changed.
        """
        if isinstance(state, Mapping):
            unstamped(state, "state")
        step, last_due = entry(state, "step", int), entry(state, "acted", int)
        take_events = self._book.read_state(state)
        take_cuts = entry(state, "transaction", self._cuts.read_state)
        take_monitor = None
        if self.monitor is not None:
            take_monitor = entry(state, "monitor", optional(self.monitor.read_state), None)
        # All of it has been read, and nothing changed so far.
        self._step, self._last_due = step, last_due
        take_cuts()
        if take_monitor is not None:
            take_monitor()
        take_events()
        self._next_due = self._due_after(self._last_due)
        self.check_optimizers_again()
        self._book.rewind(step)

    def check_optimizers_again(self) -> None:
        """Look into the optimizers at the next `step`: the model may have other parameters."""
        self._optimizers_checked = False

    def _due_after(self, step: int) -> float:
        """When there is something to do next, if what was due at `step` is done."""
        if self._cuts.pending is not None:
            return self._cuts.pending.judged_at
        most = self.schedule.cuts if isinstance(self.schedule, WhenSettled) else _NEVER
        if self._cuts.stopped or len(lasting(self.events)) >= most:
            return _NEVER
        due = self.schedule.next_after(step)
        return _NEVER if due is None else due
