"""What hangs on a parameter object and has to follow it: marks, hooks, averaged copies."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressm.distributed.unwrapped import uncompiled
from compressm.edits import Edit, Transport
from compressm.errors import InputError

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def successor(old: nn.Parameter, value: Tensor) -> nn.Parameter:
    """A new parameter with the old one's dtype, device, marks (`_no_weight_decay`) and hooks."""
    new = nn.Parameter(
        value.to(device=old.device, dtype=old.dtype).contiguous().clone(),
        requires_grad=old.requires_grad,
    )
    carry_marks(old, new)
    return new


def carry_marks(old: nn.Parameter, new: nn.Parameter) -> None:
    """Give `new` the marks and hooks of `old`.

    Hooks move with their registry, so the handle that the user holds still removes them.
    """
    new.__dict__.update(old.__dict__)
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
    """One warning that names the parameters whose hooks now see tensors of another shape."""
    named = sorted(name for name, old in olds if _has_hooks(old))
    if named:
        warnings.warn(
            f"hooks registered on {', '.join(named)} were moved to the new, smaller parameters; "
            "register them again if they hold the old parameter or anything of its shape",
            stacklevel=4,
        )


def _has_hooks(parameter: nn.Parameter) -> bool:
    hooks = (hook for name in _HOOKS for hook in (getattr(parameter, name, None) or {}).values())
    return any(not isinstance(hook, StepInBackward) for hook in hooks)


class Averages:
    """The copies of a model that hold averaged weights, such as `AveragedModel`.

    Args:
        model: the live model.
        copies: `torch.optim.swa_utils.AveragedModel`s of it, or plain copies.

    Raises:
        InputError: one of them is not a copy of the model.
    """

    def __init__(self, model: nn.Module, copies: Sequence[nn.Module]) -> None:
        self.modules = [_bare(copy) for copy in copies]
        own = {name: p.shape for name, p in model.named_parameters()}
        for copy in self.modules:
            if {name: p.shape for name, p in copy.named_parameters()} != own:
                raise InputError(
                    f"ema: expected an AveragedModel of the same model, at the same sizes, got a "
                    f"{type(copy).__name__} whose parameters have other names or shapes"
                )

    def follow(self, model: nn.Module, edit: Edit) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """(averaged parameter, its successor) for every copy; nothing is changed here.

        A selection of states is followed exactly, and the copy gets the same correction as the
        model (a refitted readout): a' = a[kept] + (p' - p[kept]). After a change of basis no
        average of old values makes a consistent layer, so averaging starts anew from the cut one.
        """
        pairs = []
        for counterpart in self.counterparts(model, edit):
            for name, old, value in zip(edit.names, edit.olds, edit.values, strict=True):
                averaged = counterpart.get_parameter(name)
                moved = corrected(edit.transport, averaged, old, value)
                pairs.append((averaged, successor(averaged, moved)))
        return pairs

    def counterparts(self, model: nn.Module, edit: Edit) -> list[nn.Module]:
        """The module that an edit is about, in every copy."""
        path = next(name for name, module in model.named_modules() if module is edit.module)
        return [copy.get_submodule(path) for copy in self.modules]


def corrected(rule: Transport, copy: Tensor, old: Tensor, value: Tensor) -> Tensor:
    """A copy of a parameter (an average, a master copy), after the parameter got a new value.

    Where states are kept it gets the same correction, c' = c[kept] + (p' - p[kept]). Entries that
    the parameter holds rounded stay what rounds to it. After a change of basis it is the new value.

    Args:
        rule: of the edit.
        copy: of the old parameter, in its shape; dtype and device stay.
        old: the old parameter.
        value: the new value, in any precision.
    """
    stored = value.to(device=copy.device, dtype=old.dtype)
    precise = value.to(device=copy.device, dtype=copy.dtype)
    precise = torch.where(precise.to(old.dtype) == stored, precise, stored.to(copy.dtype))
    moved = rule.kept((copy, old.to(copy.device)))
    if moved is None:
        return precise
    kept, kept_old = moved
    same = torch.where(stored == kept_old, kept, precise)
    shifted = kept + (stored.to(copy.dtype) - kept_old.to(copy.dtype))
    return torch.where(kept.to(old.dtype) == kept_old, same, shifted)


def _bare(copy: nn.Module) -> nn.Module:
    inner = copy.module if isinstance(copy, torch.optim.swa_utils.AveragedModel) else copy
    return uncompiled(inner)
