"""Cuts as transactions on one live model and its optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from compressm.adapters.base import Select
from compressm.calibration import Calibration
from compressm.guard import Companion
from compressm.pipeline import Proposal, Survey
from compressm.writeback import Snapshot, commit_, undisturbed


@dataclass(frozen=True, kw_only=True, eq=False)
class Cutter:
    """How to cut: everything but when and how much."""

    model: nn.Module
    optimizers: Sequence[Optimizer]
    method: str
    calibration: Calibration | None
    transport: str
    select: Select
    generator: torch.Generator
    companions: Sequence[Companion] = field(default=())
    snapshot_folder: Path | None = None

    @property
    def parameters(self) -> int:
        """Parameters of the whole model now."""
        return sum(p.numel() for p in self.model.parameters())

    def survey(self) -> Survey:
        """Measure all layers."""
        return Survey.of(self.model, self.method, self.calibration)

    def propose(self, survey: Survey, plan: Mapping[str, int]) -> Proposal:
        """Reduce the layers that the plan makes smaller."""
        return survey.propose(plan, select=self.select, generator=self.generator)

    def commit(self, proposal: Proposal) -> None:
        """Write a proposal into the live model and optimizers."""
        commit_(self.model, proposal.edits, self.optimizers, transport=self.transport)

    def snapshot(self) -> Snapshot:
        """Remember everything that a cut can change."""
        return Snapshot(self.model, self.optimizers, self.companions, folder=self.snapshot_folder)

    def evaluate(self, metric: Callable[[], float]) -> float:
        """A metric of the live model; random numbers and training flags are put back."""
        with undisturbed(self.model):
            return float(metric())

    @contextmanager
    def trial(self, survey: Survey, plan: Mapping[str, int]) -> Iterator[Proposal]:
        """The model as the plan would leave it, inside the `with` only."""
        snapshot = self.snapshot()
        try:
            proposal = self.propose(survey, plan)
            self.commit(proposal)
            yield proposal
        finally:
            snapshot.restore()
            snapshot.close()
