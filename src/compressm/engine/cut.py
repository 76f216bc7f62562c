"""One cut: measure, plan, propose, commit. Nobody asks afterwards what it has cost.

    survey = run.survey()                       every layer measured
    plan = plan_cut(run, policy, survey, …)     states to keep, by layer
    proposal = propose_cut(run, survey, plan)   reduced and refitted; nothing is changed yet
    commit(run, proposal)                       model and optimizers, on all ranks or on none

`guarded_cut` does the same, and looks at a metric before and after.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, TypeVar, final

from compressm.distributed.fsdp import adds_up
from compressm.engine.new_sizes import require_growable
from compressm.engine.proposal import Proposal, propose
from compressm.engine.rollback import Rollback
from compressm.engine.saved_state import checked_generator, entry
from compressm.engine.stopwatch import Stopwatch
from compressm.engine.survey import Survey
from compressm.engine.training_run import TrainingRun
from compressm.errors import CheckpointError, DistributedError
from compressm.events import Event, kind_of
from compressm.policies.base import Bound, LiveModel, Policy
from compressm.runtime.accelerators import devices_of, synchronize
from compressm.writeback import (
    Averages,
    Elsewhere,
    Snapshot,
    prepared,
    require_finite,
    require_owned,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """States to keep by layer, and what the policy has to say about them."""

    states: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def changes(self, survey: Survey) -> bool:
        """Whether any layer would have another size than it was measured with."""
        sizes = survey.spectra.items()
        return any(self.states[name] != spectrum.state_dim for name, spectrum in sizes)


def plan_cut(run: TrainingRun, policy: Policy, survey: Survey, rollback: Rollback) -> Plan:
    """What the policy would keep; it may try out cuts, which are put back from a snapshot."""

    @cache  # a search through all that is alive: once, however many cuts are tried
    def elsewhere() -> Elsewhere:
        return look_elsewhere(run)

    live = LiveModel(
        parameters=run.parameters,
        trial=lambda states: tried_out(run, survey, states, rollback, elsewhere()),
        evaluate=partial(run.evaluate, may_train=True),
        wait=lambda: synchronize(devices_of(run.model)),
    )
    with run.ranks.agreement("planning"):
        states = policy.plan(survey.spectra, live)
    states = as_carried_out(run, survey, run.ranks.broadcast(states))
    if isinstance(policy, Bound) and (line := policy.broken(survey.spectra, states, live)):
        live.notes.append(line)
    return Plan(states=states, notes=tuple(live.notes))


def as_carried_out(run: TrainingRun, survey: Survey, states: Mapping[str, int]) -> dict[str, int]:
    """The states that layers will have: as many as each can, not fewer than planned.

    With `uniform`, one number for those that must agree.

    Raises:
        InputError: a layer was to grow and cannot.
    """
    larger = {n: rank for n, rank in states.items() if rank > survey.spectra[n].state_dim}
    with run.ranks.agreement("looking at the layers that grow"):
        possible = require_growable(survey.sites, larger)
    smaller = states.keys() - larger.keys()
    possible |= {name: survey.spectra[name].at_least(states[name]) for name in smaller}
    possible = {name: possible[name] for name in states}
    return survey.with_uniform_sizes(possible) if run.settings.uniform else possible


def propose_cut(run: TrainingRun, survey: Survey, states: Mapping[str, int]) -> Proposal:
    """Reduce the layers that are to be smaller, and grow others, by the settings of the run."""
    settings = run.settings
    return propose(
        survey,
        states,
        select=settings.select,
        generator=run.generator,
        joint_fit=settings.joint_fit,
    )


def look_elsewhere(run: TrainingRun) -> Elsewhere:
    """Who else alive holds parameters that a cut may replace."""
    replaced = [parameter for _, parameter in run.state_parameters]
    return Elsewhere.of(replaced, run.optimizers, run.everything)


def commit(run: TrainingRun, proposal: Proposal, elsewhere: Elsewhere | None = None) -> None:
    """Write a proposal into the live model and optimizers, on all ranks or on none.

    Args:
        run: as it was proposed for.
        proposal: what changes.
        elsewhere: what `look_elsewhere` found; None looks now.
    """
    transport = run.settings.transport
    with run.ranks.agreement("looking into the optimizers"):
        # Apart, because what follows gathers the states of sharded optimizers on all ranks.
        if proposal.changes_anything:
            others = look_elsewhere(run) if elsewhere is None else elsewhere
            require_owned(run.model, proposal.edits, run.optimizers, others)
        require_finite(run.model, proposal.edits, run.optimizers, transport)
    with run.ranks.agreement("preparing the cut"):
        apply = prepared(
            run.model,
            proposal.edits,
            run.optimizers,
            transport=transport,
            averages=Averages(run.model, run.settings.ema),
        )
    with run.ranks.agreement("making the cut"):
        apply()
        run.distributed.rebuild_reducer_()
    run.require_identical("after the cut")
    if run.is_sharded:
        with run.ranks.agreement("checking the cut"):
            if not adds_up(proposal.edits):
                raise DistributedError(
                    "after the cut the shards of a parameter do not add up to its new value; "
                    "go back to the last checkpoint, and please report this"
                )


@contextmanager
def tried_out(
    run: TrainingRun,
    survey: Survey,
    states: Mapping[str, int],
    rollback: Rollback,
    elsewhere: Elsewhere,
) -> Iterator[Proposal]:
    """The model as a plan would leave it, inside the `with` only; it is at the return point."""
    with undone(run, rollback):
        proposal = propose_cut(run, survey, as_carried_out(run, survey, states))
        commit(run, proposal, elsewhere)
        yield proposal


@contextmanager
def undone(run: TrainingRun, rollback: Rollback) -> Iterator[None]:
    """Whatever the body does to the model, it is at the return point again afterwards."""
    snapshot = rollback.snapshot()
    try:
        yield
    except BaseException:  # the other ranks fail as well, or do not know of Ctrl-C
        rollback.undoing(snapshot)()
        raise
    with run.ranks.agreement("undoing the trial"):
        rollback.undoing(snapshot)()


class PendingCut(Protocol):
    """A cut that has been made, and waits for a verdict.

    Attributes:
        judged_at: the step of the verdict.
        snapshot: what undoes it.
    """

    judged_at: int
    snapshot: Snapshot

    def judge(self, step: int, *, last: bool = False) -> Event:
        """Keep the cut, or undo it; perhaps try another, unless it is the `last` verdict."""


class Cuts(ABC):
    """The cuts of one run under one policy. What calls them goes through `all_or_nothing`.

    Attributes:
        run: what is cut.
        policy: how far.
        rollback: what undoes a call that fails.
        pending: the cut that waits for its verdict; None when none does.
        stopped: whether there is to be no further one.
    """

    def __init__(self, run: TrainingRun, policy: Policy) -> None:
        self.run, self.policy, self.rollback = run, policy, Rollback(run)
        self.pending: PendingCut | None = None
        self.stopped = False

    @abstractmethod
    def begin(self, step: int) -> None:
        """The training begins; does something at the first call only."""

    @abstractmethod
    def cut(self, step: int | None, survey: Survey | None = None) -> Event:
        """Measure (or take `survey`), plan, cut."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to know of the cuts so far."""

    @abstractmethod
    def read_state(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Read what `state_dict` gave; what is returned goes on from there."""

    @final
    def measured(self, step: int | None, survey: Survey) -> Event:
        """The event of a measurement without a cut."""
        now = self.run.parameters
        return Stopwatch(self.run, step).event(
            "measured", survey.unchanged(), parameters_before=now
        )

    @final
    def all_or_nothing(self, work: Callable[[], T], *books: object) -> T:
        """What `work` does happens altogether or, when anything raises, not at all.

        One step back is never taken back: when a cut that was tried has been undone and the next
        attempt fails, that one is made at the next call.

        Args:
            work: calls the methods above.
            books: further objects whose attributes say what has happened.
        """
        records = [] if self.pending is None else [self.pending]
        try:
            return self.rollback.all_or_nothing(work, books=[self, *books], records=records)
        finally:
            self.rollback.close_snapshots(None if self.pending is None else self.pending.snapshot)


@final
class UnguardedCuts(Cuts):
    """Every cut stays."""

    def begin(self, step: int) -> None:
        """There is nothing to do."""

    def cut(self, step: int | None, survey: Survey | None = None) -> Event:
        watch = Stopwatch(self.run, step)
        survey = survey or self.run.survey()
        before = self.run.parameters
        plan = plan_cut(self.run, self.policy, survey, self.rollback)
        return cut_at_once(self.run, survey, plan, watch, before)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.run.generator.get_state()}

    def read_state(self, state: Mapping[str, Any]) -> Callable[[], None]:
        if entry(state, "trial", lambda trial: trial, None) is not None:
            raise CheckpointError(
                "state: a cut in it waits for the verdict of a guard; give the guard with which it "
                "was made"
            )
        generator = checked_generator(state)

        def go_on() -> None:
            self.run.generator.set_state(generator)

        return go_on


def cut_at_once(
    run: TrainingRun, survey: Survey, plan: Plan, watch: Stopwatch, parameters_before: int
) -> Event:
    """Carry out a plan that nobody judges."""
    proposal = propose_cut(run, survey, plan.states)
    commit(run, proposal)
    return watch.event(
        kind_of(proposal.changes),
        proposal.changes,
        parameters_before=parameters_before,
        notes=(*plan.notes, *proposal.notes),
    )
