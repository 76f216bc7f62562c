"""A new parameter in the place of an old one, with all that hangs on it: marks and hooks."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from compressm.distributed.fsdp import is_shard

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def successor(old: nn.Parameter, value: Tensor) -> nn.Parameter:
    """A new parameter with the old one's dtype, device, marks (`_no_weight_decay`) and hooks.

    It lies in shared memory where the old one does.
    """
    new = nn.Parameter(
        value.to(device=old.device, dtype=old.dtype).contiguous().clone(),
        requires_grad=old.requires_grad,
    )
    share_like_(old, new)
    carry_marks(old, new)
    return new


def share_like_(old: Tensor, new: Tensor) -> None:
    """Move `new` to shared memory if `old` lies there (`share_memory_`)."""
    # On other devices all memory counts as shared; shards lie with their collectives.
    if old.device.type == "cpu" and not is_shard(old) and _is_shared(old):
        new.share_memory_()  # type: ignore[no-untyped-call]


def _is_shared(tensor: Tensor) -> bool:
    return bool(tensor.is_shared())  # type: ignore[no-untyped-call]


def carry_marks(old: nn.Parameter, new: nn.Parameter) -> None:
    """Give `new` the marks and hooks of `old`, and the dtype of its gradients if it has its own.

    Hooks move with their registry, so the handle that the user holds still removes them.
    """
    new.__dict__.update(old.__dict__)
    if old.grad_dtype != old.dtype:
        new.grad_dtype = old.grad_dtype
    for name in _HOOKS:
        if getattr(old, name, None):
            setattr(new, name, getattr(old, name))
    if new.requires_grad and _steps_in_backward(old):
        new.register_post_accumulate_grad_hook(StepInBackward(old))  # type: ignore[no-untyped-call]


class StepInBackward:
    """Steps the optimizers that a parameter carries as soon as its gradient is there.

    `torch.distributed.optim._apply_optimizer_in_backward` puts that on the autograd node of a
    parameter, which a new parameter does not have.

    Args:
        first: the parameter that it was put on; it shares its hooks with those that follow it.
    """

    def __init__(self, first: nn.Parameter) -> None:
        self._first = weakref.ref(first)

    def __call__(self, parameter: Any) -> None:
        if parameter is not self._first():
            for optimizer in parameter._in_backward_optimizers:
                optimizer.step()
            parameter.grad = None


def _steps_in_backward(parameter: nn.Parameter) -> bool:
    module = sys.modules.get("torch.distributed.optim.apply_optimizer_in_backward")
    return module is not None and parameter in module.param_to_optim_hook_handle_map


def warn_of_hooks(olds: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Name the parameters whose hooks now see tensors of another shape, or wait in vain."""
    found = {name: _hooks(old) for name, old in olds}
    moved, waiting = (
        ", ".join(sorted(name for name, hooks in found.items() if any(kind(h) for h in hooks)))
        for kind in (_is_alone, _waits_for_others)
    )
    if moved:
        warnings.warn(
            f"hooks registered on {moved} were moved to the new parameters; "
            "register them again if they hold the old parameter or anything of its shape",
            stacklevel=4,
        )
    if waiting:
        warnings.warn(
            f"hooks of register_multi_grad_hook on {waiting} cannot follow, they go on waiting "
            "for gradients of the old parameters: remove them by their handle, and register them "
            "on the new ones",
            stacklevel=4,
        )


def _hooks(parameter: nn.Parameter) -> list[Any]:
    return [hook for name in _HOOKS for hook in (getattr(parameter, name, None) or {}).values()]


def _is_alone(hook: Any) -> bool:
    return not isinstance(hook, StepInBackward) and not _waits_for_others(hook)


def _waits_for_others(hook: Any) -> bool:
    """Whether it is one of `register_multi_grad_hook(mode="all")`, which knows the nodes of all its
    tensors in the graph. Those of mode "any" know nothing, and move."""
    name = getattr(hook, "__qualname__", "")
    return name.startswith("register_multi_grad_hook.") and name.endswith(".inner_hook")
