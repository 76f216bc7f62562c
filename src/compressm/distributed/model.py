"""Who trains this model: the bare module, a wrapper around it, and the processes that share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compressm.arguments import instance
from compressm.distributed import fsdp
from compressm.distributed.ddp import (
    find_live_wrapper,
    find_wrapper,
    rebuild_reducer_,
    require_renewable,
)
from compressm.distributed.ranks import ALONE, RankGroup, Ranks
from compressm.distributed.unwrapped import uncompiled
from compressm.errors import DistributedError, InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class DistributedModel:
    """A model and how it is distributed.

    Attributes:
        model: the bare module, whose layers are cut.
        wrapper: the DDP around it, or None.
        is_sharded: whether it is under `fully_shard`.
        ranks: the processes that share it.
    """

    model: nn.Module
    wrapper: DistributedDataParallel | None = None
    is_sharded: bool = False
    ranks: Ranks = ALONE

    @classmethod
    def of(
        cls, model: nn.Module, wrapper: nn.Module | None = None, group: Any = None
    ) -> DistributedModel:
        """Find out. On several processes, all of them must call.

        Args:
            model: bare, a DDP, or under `fully_shard`.
            wrapper: the DDP that contains `model`, when `model` is only a part of what it wraps.
            group: process group of replicas whose gradients the user reduces without DDP.

        Raises:
            InputError: `wrapper` is no DDP of `model`, or `group` is not for this kind of model.
            DistributedError: the model is distributed in a way that cannot be cut.
        """
        instance("model", model, nn.Module)
        if not dist.is_available() or not dist.is_initialized():
            if group is not None or wrapper is not None:
                raise InputError("process_group, wrapper: torch.distributed is not initialised")
            return cls(model=uncompiled(model))
        around = find_wrapper(model if wrapper is None else wrapper)
        if wrapper is not None and (around is None or not _within(model, around)):
            raise InputError(
                "wrapper: expected the DistributedDataParallel that contains `model`, got "
                f"{type(wrapper).__name__}"
            )
        if around is not None:
            require_renewable(around)
            inner = around.module if find_wrapper(model) is around else model
            ranks = dist.get_process_group_ranks(group or around.process_group)
            return cls(model=uncompiled(inner), wrapper=around, ranks=_ranks(ranks))
        model = uncompiled(model)
        _refuse_others(model)
        if fsdp.is_sharded(model):
            if group is not None:
                raise InputError("process_group: fully_shard's own mesh is used; leave it out")
            return cls(model=model, is_sharded=True, ranks=_ranks(fsdp.mesh_ranks(model)))
        if group is not None:
            return cls(model=model, ranks=_ranks(dist.get_process_group_ranks(group)))
        return cls(model=model)

    def require_unwrapped(self) -> None:
        """Refuse a model that was wrapped behind our back: its wrapper would be left stale.

        Raises:
            DistributedError: a DDP around the model, or `fully_shard`, that we were not given.
        """
        if not dist.is_available() or not dist.is_initialized() or self.wrapper or self.is_sharded:
            return
        if find_live_wrapper(self.model) is not None or fsdp.is_sharded(self.model):
            raise DistributedError(
                "model: it is part of a DistributedDataParallel or under fully_shard, which would "
                "go on with the old parameters. Wrap it before compressm sees it and pass the DDP "
                "itself (or wrapper=<the DDP> with model=<a part of it>), on every rank"
            )

    def rebuild_reducer_(self) -> None:
        """Make the wrapper know the parameters that the model has now."""
        if self.wrapper is not None:
            rebuild_reducer_(self.wrapper)

    @property
    def outer(self) -> nn.Module:
        """What the user calls: the wrapper, or the model."""
        return self.model if self.wrapper is None else self.wrapper


def _ranks(ranks: list[int]) -> Ranks:
    return RankGroup(ranks) if len(ranks) > 1 else ALONE


def _within(model: nn.Module, wrapper: DistributedDataParallel) -> bool:
    return any(module is model for module in wrapper.modules())


def _refuse_others(model: nn.Module) -> None:
    # By name: FSDP1 is slow to import, and deprecated.
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()):
        raise DistributedError(
            "model: FullyShardedDataParallel flattens parameters, so layers cannot be cut; use "
            f"torch.distributed.fsdp.fully_shard (torch {torch.__version__} has it), or DDP"
        )
