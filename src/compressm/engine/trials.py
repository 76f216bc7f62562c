"""Cuts that are looked at and undone, as many as one likes, from one measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TypeVar, final

from compressm.engine.cut import as_carried_out, commit, look_elsewhere, propose_cut, undone
from compressm.engine.proposal import Proposal
from compressm.engine.rollback import Rollback
from compressm.engine.survey import Survey
from compressm.engine.training_run import TrainingRun
from compressm.policies.base import Policy
from compressm.runtime.steady import steady
from compressm.writeback import Elsewhere

T = TypeVar("T")


@final
class Trials:
    """A live model that is cut and put back: bit for bit, with its optimizers and random numbers.

    Made by `trying`, and of use inside of it only.

    Attributes:
        run: what is cut.
    """

    def __init__(self, run: TrainingRun, rollback: Rollback) -> None:
        self.run, self._rollback = run, rollback

    def plan(self, policy: Policy, survey: Survey) -> dict[str, int]:
        """States that each layer would keep, as a cut by this policy would carry it out."""
        return as_carried_out(self.run, survey, policy.plan(survey.spectra))

    def propose(self, survey: Survey, states: Mapping[str, int]) -> Proposal:
        """The cut to these states, as `compress_` would make it on a fresh call."""
        self.run.generator.manual_seed(self.run.settings.seed)
        return propose_cut(self.run, survey, states)

    @contextmanager
    def cut(self, proposal: Proposal | None) -> Iterator[None]:
        """The model after this cut (None: as it is), inside the `with` only.

        A proposal can be tried again.
        """
        with undone(self.run, self._rollback):
            if proposal is not None:
                commit(self.run, proposal, self._elsewhere)
            yield

    def evaluate(self, metric: Callable[[], float]) -> float:
        """A number that the user's code returns inside of `cut`; it may train, which is undone."""
        return self.run.evaluate(metric, may_train=True)

    @cached_property
    def _elsewhere(self) -> Elsewhere:
        """Who else uses what cuts replace: a search through all that is alive, so once.

        Optimizers that were not given do not matter: before they step, all is back.
        """
        return Elsewhere(modules=look_elsewhere(self.run).modules)


def trying(run: TrainingRun, work: Callable[[Trials], T]) -> T:
    """What `work` returns, which may cut the model as often as it likes; all of it is undone."""
    rollback = Rollback(run)
    try:
        with steady():
            return rollback.all_or_nothing(lambda: work(Trials(run, rollback)), books=[])
    finally:
        rollback.close_snapshots()
