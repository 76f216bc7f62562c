"""`ZeroRedundancyOptimizer`: each rank keeps the states of its part of the parameters.

Its groups hold all parameters, an optimizer inside it those of this rank, and caches say who steps
which. The partition stays as it is when parameters are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compressm.errors import OptimizerError
from compressm.writeback.optimizer_state import leaves, replaced

_INTERNALS = ("_build_param_buckets", "_get_is_trainable_mask", "_param_to_rank", "_all_params")


def is_partitioned(owner: Any) -> bool:
    """Whether it is a `ZeroRedundancyOptimizer`."""
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    return module is not None and isinstance(owner, module.ZeroRedundancyOptimizer)


def partitioned_by_inner(owners: Iterable[Any]) -> dict[int, Any]:
    """The `ZeroRedundancyOptimizer` by the id of the optimizer inside it, for those there are."""
    return {id(owner.optim): owner for owner in owners if is_partitioned(owner)}


def require_known(owners: Iterable[Any]) -> None:
    """Refuse what `refresh_partition_` could not do.

    Raises:
        OptimizerError: it steps inside the backward pass, or this torch builds it otherwise.
    """
    for zero in owners:
        if not is_partitioned(zero):
            continue
        if zero._overlap_with_ddp:
            raise OptimizerError(
                "optimizer: ZeroRedundancyOptimizer with overlap_with_ddp=True steps inside the "
                "hooks of DistributedDataParallel, which cannot follow a change of shape; build it "
                "without, or cut before it is built"
            )
        if not all(hasattr(zero, name) for name in _INTERNALS):
            raise OptimizerError(
                f"optimizer: torch {torch.__version__} builds ZeroRedundancyOptimizer in a way "
                "that this compressm does not know (2.13 is known); cut before it is built"
            )


def refresh_partition_(zero: Any) -> None:
    """Renew what depends on the parameters; lists and caches hold the new ones already."""
    zero._all_state_dicts = []  # collected before: call consolidate_state_dict again
    zero._is_trainable_mask = zero._get_is_trainable_mask()
    zero._build_param_buckets()


def gathered(zero: Any, olds: Sequence[Tensor]) -> list[dict[str, Any]]:
    """The states of these parameters, wherever they are kept; every rank of its group must call."""
    kept = zero.optim.state
    mine = {i: _moved(kept[p], torch.device("cpu")) for i, p in enumerate(olds) if p in kept}
    parts: list[Any] = [None] * zero.world_size
    dist.all_gather_object(parts, mine, group=zero.process_group)
    states = {i: _moved(state, olds[i].device) for part in parts for i, state in part.items()}
    return [states.get(i, {}) for i in range(len(olds))]


def _moved(state: Any, device: torch.device) -> Any:
    """Counts of steps stay where they are: on the CPU, for most optimizers."""
    tensors = ((leaf.path, leaf.tensor) for leaf in leaves(state) if leaf.tensor is not None)
    return replaced(state, {path: t.to(device) for path, t in tensors if t.ndim})
