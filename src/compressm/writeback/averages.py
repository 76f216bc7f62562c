"""Copies of weights that follow a cut: averaged models, master copies of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressm.distributed.unwrapped import uncompiled
from compressm.edits import Edit, Transport
from compressm.errors import InputError
from compressm.writeback.successor import successor


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
