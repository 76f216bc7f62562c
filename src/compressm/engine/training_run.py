"""What a cut is made in: a live model, its averaged copies and optimizers, on all its ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from compressm.distributed.fsdp import reshard_
from compressm.distributed.model import DistributedModel
from compressm.distributed.ranks import Ranks
from compressm.engine.frozen_copies import warn_of_copies
from compressm.engine.guard import Guard, as_metric
from compressm.engine.settings import CutSettings
from compressm.engine.survey import Survey
from compressm.errors import InputError
from compressm.families.base import find_sites
from compressm.families.host_config import sized_attributes
from compressm.runtime.randomness import unmoved
from compressm.runtime.steady import as_called
from compressm.storage.bits import tensors_in
from compressm.writeback import as_optimizers, in_backward, require_held, undisturbed
from compressm.writeback.companions import Companion
from compressm.writeback.ownership import all_optimizers
from compressm.writeback.zero_redundancy import partitioned_by_inner


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRun:
    """What a cut changes, and the settings by which it does.

    Attributes:
        distributed: the model, its wrapper, and the processes that share it.
        optimizers: as users give them, and those that step in the backward pass.
        generator: of random selections.
    """

    distributed: DistributedModel
    optimizers: tuple[Optimizer, ...]
    settings: CutSettings
    generator: torch.Generator

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None,
        settings: CutSettings,
        *,
        wrapper: nn.Module | None = None,
        process_group: Any = None,
    ) -> TrainingRun:
        """The run of these, see `compress_`.

        Raises:
            InputError, OptimizerError, DistributedError: they cannot be cut.
        """
        distributed = DistributedModel.of(model, wrapper, process_group)
        if not distributed.is_sharded:
            warn_of_copies(distributed.model)
        return cls(
            distributed=distributed,
            optimizers=(*as_optimizers(optimizer), *in_backward(distributed.model)),
            settings=settings,
            generator=torch.Generator(device="cpu").manual_seed(settings.seed),
        )

    def __post_init__(self) -> None:
        """Refuse parameters that nobody can train, and what sharded models cannot have."""
        frozen = [name for name, p in self.model.named_parameters() if p.is_inference()]
        if frozen:
            raise InputError(
                f"model: {frozen[0]} was made inside torch.inference_mode(), so it can be neither "
                "trained nor put back after a cut; build or load the model outside of it"
            )
        if self.is_sharded and self.settings.ema:
            raise InputError(
                "ema: averaged copies of a model under fully_shard cannot be cut; make the average "
                "after the last cut"
            )
        if self.is_sharded and self.settings.joint_fit is not None:
            raise InputError(
                "joint_fit: it works on a copy of the model, and one under fully_shard cannot be "
                "copied; leave it out (fits of single layers work)"
            )
        if self.is_sharded and self.guard is not None and self.guard.snapshot_folder is not None:
            raise InputError(
                "guard: snapshot_folder cannot hold sharded tensors; leave it out (each rank keeps "
                "a copy of its own shards in memory)"
            )

    @property
    def model(self) -> nn.Module:
        """The bare module, without a wrapper around it."""
        return self.distributed.model

    @property
    def everything(self) -> nn.Module:
        """All modules that a cut changes, as one: the model and its averaged copies."""
        copies = self.settings.ema
        return nn.ModuleList([self.model, *copies]) if copies else self.model

    @property
    def ranks(self) -> Ranks:
        """The processes that cut together."""
        return self.distributed.ranks

    @property
    def is_sharded(self) -> bool:
        """Whether the model is under `fully_shard`."""
        return self.distributed.is_sharded

    @property
    def guard(self) -> Guard | None:
        """What a cut may cost, if anybody looks."""
        return self.settings.guard

    @property
    def companions(self) -> tuple[Companion, ...]:
        """What goes back with the model when a cut is undone."""
        return () if self.guard is None else tuple(self.guard.companions)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model now."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that cuts replace, with their names."""
        return [
            (f"{path}.{name}" if path else name, site.module.get_parameter(name))
            for path, site in find_sites(self.model).items()
            for name in site.adapter.parameters(site.module)
        ]

    @property
    def sized_attributes(self) -> list[str]:
        """Dotted names below `everything` of what modules and configurations say about sizes."""
        return sized_attributes(self.everything, find_sites(self.everything))

    def survey(self) -> Survey:
        """Measure all layers."""
        return self.surveys([self.settings.method])[self.settings.method]

    def surveys(self, methods: Sequence[str]) -> dict[str, Survey]:
        """Measure all layers by each of several methods, in one pass over the data."""
        self.distributed.require_unwrapped()
        self.require_identical("before the cut")
        return Survey.by_methods(self.model, methods, self.settings.calibration, self.ranks)

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
            [self.distributed.outer, *self.settings.ema],
            self.optimizers,
            self.companions,
            may_train=may_train,
        )
        with self.ranks.agreement("evaluating"), looking, unmoved(metric), as_called():
            try:
                value = as_metric(metric)
            finally:
                reshard_(self.model)
        return self.ranks.mean(value)

    def require_held(self) -> None:
        """Refuse layers with trainable parameters that no given optimizer holds."""
        with self.ranks.agreement("looking into the optimizers"):
            require_held(self.state_parameters, self.optimizers)

    def require_identical(self, when: str) -> None:
        """Replicas must be the same; each rank's shards of a sharded model are its own."""
        if self.ranks.size > 1 and not self.is_sharded:
            owners = all_optimizers(self.optimizers)
            apart = partitioned_by_inner(owners)  # of each rank, those of its own parameters
            states = (s for o in owners if id(o) not in apart for s in o.state.values())
            moments = (t for state in states for t in tensors_in(state))
            self.ranks.require_identical(itertools.chain(self.model.parameters(), moments), when)
