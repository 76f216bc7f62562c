"""Cuts as transactions on one live model and its optimizers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from compressm.arguments import instance, shown, whole
from compressm.calibration import Calibration, Forward, Loss, calibration_of
from compressm.distributed.fsdp import reshard_, stored_as
from compressm.distributed.ranks import Ranks
from compressm.distributed.topology import Team
from compressm.engine.guard import Guard, as_metric
from compressm.engine.survey import Proposal, Survey
from compressm.errors import DistributedError, InputError
from compressm.families.base import SELECTIONS, Which, find_sites
from compressm.families.host_config import sized_attributes
from compressm.runtime.interrupts import held
from compressm.runtime.randomness import unmoved
from compressm.runtime.steady import as_called
from compressm.storage.bits import tensors_in
from compressm.writeback import (
    TRANSPORTS,
    Averages,
    Snapshot,
    Standing,
    as_optimizers,
    in_backward,
    prepared,
    require_finite,
    require_held,
    require_owned,
    undisturbed,
)
from compressm.writeback.companions import Companion
from compressm.writeback.ownership import followed
from compressm.writeback.partition import parts

# Arguments that had another name, and what to write now.
RENAMED = {"rank": "uniform=True (one size for all layers) or uniform=False (one for each)"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Cutter:
    """How to cut: everything but when and how much.

    Attributes:
        team: the model, and the processes that share it.
        uniform: whether layers of one configuration must keep the same number of states.
        ema: averaged copies of the model; they are cut with it, and rolled back with it.
        snapshots: those that are open.
    """

    team: Team
    optimizers: Sequence[Optimizer]
    method: str
    calibration: Calibration | None
    transport: str
    select: Which
    generator: torch.Generator
    uniform: bool = False
    companions: Sequence[Companion] = field(default=())
    snapshot_folder: Path | None = None
    ema: Sequence[nn.Module] = field(default=())
    snapshots: list[Snapshot] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse parameters that nobody can train, and what sharded models cannot have."""
        frozen = [name for name, p in self.model.named_parameters() if p.is_inference()]
        if frozen:
            raise InputError(
                f"model: {frozen[0]} was made inside torch.inference_mode(), so it can be neither "
                "trained nor put back after a cut; build or load the model outside of it"
            )
        if self.team.is_sharded and self.ema:
            raise InputError(
                "ema: averaged copies of a model under fully_shard cannot be cut; make the average "
                "after the last cut"
            )
        if self.team.is_sharded and self.snapshot_folder is not None:
            raise InputError(
                "guard: snapshot_folder cannot hold sharded tensors; leave it out (each rank keeps "
                "a copy of its own shards in memory)"
            )

    @property
    def everything(self) -> nn.Module:
        """All modules that a cut changes, as one."""
        return nn.ModuleList([self.model, *self.ema]) if self.ema else self.model

    @property
    def model(self) -> nn.Module:
        """The bare module, without a wrapper around it."""
        return self.team.model

    @property
    def ranks(self) -> Ranks:
        """The processes that cut together."""
        return self.team.ranks

    @property
    def parameters(self) -> int:
        """Parameters of the whole model now."""
        return sum(p.numel() for p in self.model.parameters())

    def survey(self) -> Survey:
        """Measure all layers."""
        self.team.require_unwrapped()
        self._require_identical("before the cut")
        return Survey.of(self.model, self.method, self.calibration, self.ranks)

    def settle(self, survey: Survey, plan: Mapping[str, int]) -> dict[str, int]:
        """The plan as it will be carried out: with one rank for each group that must agree."""
        return survey.levelled(plan) if self.uniform else dict(plan)

    def propose(self, survey: Survey, plan: Mapping[str, int]) -> Proposal:
        """Reduce the layers that the plan makes smaller."""
        return survey.propose(plan, select=self.select, generator=self.generator)

    def require_held(self) -> None:
        """Refuse layers with trainable parameters that no given optimizer holds."""
        with self.ranks.agreement("looking into the optimizers"):
            require_held(
                (
                    (f"{path}.{name}" if path else name, site.module.get_parameter(name))
                    for path, site in find_sites(self.model).items()
                    for name in site.adapter.parameters(site.module)
                ),
                self.optimizers,
            )

    def commit(self, proposal: Proposal) -> None:
        """Write a proposal into the live model and optimizers, on all ranks or on none."""
        with self.ranks.agreement("looking into the optimizers"):
            # Apart, because what follows gathers the states of sharded optimizers on all ranks.
            require_owned(self.model, proposal.edits, self.optimizers)
            require_finite(self.model, proposal.edits, self.optimizers, self.transport)
        with self.ranks.agreement("preparing the cut"):
            apply = prepared(
                self.model,
                proposal.edits,
                self.optimizers,
                transport=self.transport,
                averages=Averages(self.model, self.ema),
            )
        with self.ranks.agreement("making the cut"):
            apply()
            self.team.renew_()
        self._require_identical("after the cut")
        if self.team.is_sharded:
            with self.ranks.agreement("checking the cut"):
                if not stored_as(proposal.edits):
                    raise DistributedError(
                        "after the cut the shards of a parameter do not add up to its new value; "
                        "go back to the last checkpoint, and please report this"
                    )

    def standing(self) -> Standing:
        """Where everything stands, for a cut that fails."""
        return Standing(
            self.everything, self.optimizers, [self.generator], attributes=self._sizes()
        )

    def stand(self, standing: Standing) -> None:
        """Undo what has failed, on this rank alone: all of them fail together."""
        with held():
            standing.put_back()
            self.team.renew_()

    def snapshot(self) -> Snapshot:
        """Remember everything that a cut can change; it is open until `close_snapshots`."""
        with self.ranks.agreement("remembering the state before the cut"):
            snapshot = Snapshot(
                self.everything,
                self.optimizers,
                self.companions,
                attributes=self._sizes(),
            )
            self.snapshots.append(snapshot)  # first, so that whatever happens its file is removed
            if self.snapshot_folder is not None:
                snapshot.move_to(self.snapshot_folder)
        return snapshot

    def close_snapshots(self, but: Snapshot | None = None) -> None:
        """Drop all snapshots, or all but one."""
        with held():
            for snapshot in self.snapshots:
                if snapshot is not but:
                    snapshot.close()
            self.snapshots[:] = [] if but is None else [but]

    def undoing(self, snapshot: Snapshot) -> Callable[[], None]:
        """What undoes everything since the snapshot, on this rank; a file has been read by then."""
        put_back = snapshot.ready()

        def undo() -> None:
            put_back()
            self.team.renew_()

        return undo

    def evaluate(self, metric: Callable[[], float], *, may_train: bool = False) -> float:
        """A metric of the live model, its mean over all ranks; it leaves no trace.

        It runs with the settings of whoever called (autocast, inference mode, default dtype, …).

        Args:
            metric: the user's.
            may_train: parameters and optimizer states are put back from a snapshot afterwards.

        Raises:
            InputError: the metric trained the model and may not.
        """
        looking = undisturbed(
            [self.team.outer, *self.ema], self.optimizers, self.companions, may_train=may_train
        )
        with self.ranks.agreement("evaluating"), looking, unmoved(metric), as_called():
            try:
                value = as_metric(metric)
            finally:
                reshard_(self.model)
        return self.ranks.mean(value)

    def _sizes(self) -> list[str]:
        everything = self.everything
        return sized_attributes(everything, find_sites(everything))

    def _require_identical(self, when: str) -> None:
        """Replicas must be the same; each rank's shards of a sharded model are its own."""
        if self.ranks.size > 1 and not self.team.is_sharded:
            owners = followed(self.optimizers)
            apart = parts(owners)  # of each rank, those of its own parameters
            states = (s for o in owners if id(o) not in apart for s in o.state.values())
            moments = (t for state in states for t in tensors_in(state))
            self.ranks.require_identical(itertools.chain(self.model.parameters(), moments), when)

    @contextmanager
    def trial(
        self, survey: Survey, plan: Mapping[str, int], snapshot: Snapshot
    ) -> Iterator[Proposal]:
        """The model as the plan would leave it, inside the `with` only.

        Args:
            survey: of the model as it is.
            plan: ranks by layer.
            snapshot: of the model as it is.
        """
        try:
            proposal = self.propose(survey, self.settle(survey, plan))
            self.commit(proposal)
            yield proposal
        except BaseException:  # the other ranks fail as well, or do not know of Ctrl-C
            self.undoing(snapshot)()
            raise
        with self.ranks.agreement("undoing the trial"):
            self.undoing(snapshot)()


def require_options(
    *,
    uniform: Any = False,
    transport: Any = "project",
    select: Any = "largest",
    seed: Any = 0,
    guard: Any = None,
    ema: Any = (),
) -> None:
    """Refuse what can be refused without a model.

    Raises:
        InputError: it names the argument, and what was expected.
    """
    instance("uniform", uniform, bool)
    choices = {"transport": (transport, TRANSPORTS), "select": (select, SELECTIONS)}
    for name, (got, known) in choices.items():
        if got not in known:
            raise InputError(f"{name}: expected one of {', '.join(known)}, got {got!r}")
    whole("seed", seed)
    if guard is not None:
        instance("guard", guard, Guard, hint="for example Guard(evaluate, max_drop=0.5)")
    if not isinstance(ema, Sequence):
        raise InputError(f"ema: expected a list of averaged models, got {shown(ema)}")
    for copy in ema:
        instance("ema", copy, nn.Module)


def make_cutter(
    team: Team,
    optimizer: Optimizer | Iterable[Optimizer] | None,
    uniform: bool,
    method: str,
    data: Iterable[Any] | Calibration | None,
    forward: Forward | None,
    loss: Loss | None,
    transport: str,
    select: Which,
    seed: int,
    guard: Guard | None,
    ema: Sequence[nn.Module],
) -> Cutter:
    """A cutter from what users say, see `compress_`.

    Raises:
        InputError, OptimizerError: an argument is unusable.
    """
    require_options(
        uniform=uniform, transport=transport, select=select, seed=seed, guard=guard, ema=ema
    )
    folder = None if guard is None or guard.snapshot_folder is None else guard.snapshot_folder
    return Cutter(
        team=team,
        optimizers=[*as_optimizers(optimizer), *in_backward(team.model)],
        method=method,
        calibration=calibration_of(data, forward, loss),
        transport=transport,
        select=select,
        generator=torch.Generator(device="cpu").manual_seed(whole("seed", seed)),
        uniform=uniform,
        companions=() if guard is None else guard.companions,
        snapshot_folder=None if folder is None else Path(folder),
        ema=tuple(ema),
    )
