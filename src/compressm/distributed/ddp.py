"""`DistributedDataParallel` around a model: found, and renewed after the parameters were replaced.

DDP reduces gradients in buckets that it lays out once, over the parameter objects it was built
with. New parameters would train on each rank's own gradients, in silence. `rebuild_reducer_` makes
that part of the wrapper anew in place, the way unpickling a DDP does, so the user's loop keeps its
object.
"""

from __future__ import annotations

import gc
from operator import is_
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compressm.distributed.unwrapped import uncompiled
from compressm.errors import DistributedError
from compressm.runtime.living import living

_INTERNALS = (
    "_build_params_for_reducer",
    "_build_debug_param_to_name_mapping",
    "_ddp_init_helper",
)


def find_wrapper(model: nn.Module) -> DistributedDataParallel | None:
    """The DDP that `model` is, also under `torch.compile`; None if it is none."""
    model = uncompiled(model)
    return model if isinstance(model, DistributedDataParallel) else None


def find_live_wrapper(model: nn.Module) -> DistributedDataParallel | None:
    """A live DDP somewhere in this process that wraps `model` or something that contains it."""

    def search() -> DistributedDataParallel | None:
        wrappers = living(DistributedDataParallel)
        return next((d for d in wrappers if any(m is model for m in d.module.modules())), None)

    if search() is None:
        return None
    gc.collect()  # it may be one that nobody uses any more
    return search()


def require_renewable(wrapper: DistributedDataParallel) -> None:
    """Refuse a DDP that `rebuild_reducer_` could not rebuild as it is.

    Raises:
        DistributedError: its options need state that cannot be rebuilt, or this torch is unknown.
    """
    missing = [name for name in _INTERNALS if not callable(getattr(wrapper, name, None))]
    if missing or not {"reducer", "logger", "_comm_hooks"} <= vars(wrapper).keys():
        raise DistributedError(
            f"model: torch {torch.__version__} builds DistributedDataParallel in a way that this "
            "compressm does not know (2.13 is known). Compress before the model is wrapped"
        )
    options = {
        "mixed_precision": wrapper.mixed_precision is not None,
        "delay_all_reduce_named_params": bool(wrapper._delay_all_reduce_params),
        "the reducer of compiled autograd": bool(wrapper._accum_grad_hooks),
    }
    used = [name for name, is_used in options.items() if is_used]
    if used:
        raise DistributedError(
            f"model: a DistributedDataParallel with {', '.join(used)} cannot be renewed after its "
            "parameters change shape; build it without, or compress before the model is wrapped"
        )


def rebuild_reducer_(wrapper: Any) -> None:
    """Rebuild what the wrapper knows of its parameters, if they are others than before.

    Every rank of its group must call. Options, process group, communication hooks and the object
    itself stay. A call that failed half way is made up for by the next.

    Args:
        wrapper: a DDP that `require_renewable` accepts.
    """
    now = [
        p
        for name, p in wrapper.module.named_parameters()
        if name not in wrapper.parameters_to_ignore
    ]
    known = wrapper._module_parameters
    if len(now) == len(known) and all(map(is_, now, known)):
        return
    parameters, sparse = wrapper._build_params_for_reducer()
    names = wrapper._build_debug_param_to_name_mapping(parameters)
    # The old reducer takes its gradient hooks along, off the parameters that stay.
    wrapper.logger = wrapper.reducer = None
    wrapper._module_parameters = []
    wrapper._ddp_init_helper(parameters, sparse, names, wrapper.static_graph)
    wrapper._has_rebuilt_buckets = False
    if wrapper.static_graph:
        wrapper._static_graph_delay_allreduce_enqueued = False
        wrapper.reducer._set_static_graph()
        wrapper.logger._set_static_graph()
    for hook, state in wrapper._comm_hooks:
        dist._register_comm_hook(wrapper.reducer, state, hook)  # type: ignore[attr-defined]
    wrapper._module_parameters = now
