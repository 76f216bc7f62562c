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

        A copy goes through the linear map that made the new values of the old ones (states that
        stay, weights of them, a refitted readout), and gets what these have beside. Where
        eigenvalues were found anew no average of old values makes a consistent layer, so averaging
        starts anew from the cut one.
        """
        pairs = []
        for counterpart in self.counterparts(model, edit):
            averages = tuple(counterpart.get_parameter(name) for name in edit.names)
            moved = corrected(edit.transport, averages, edit.olds, edit.values)
            pairs += [(a, successor(a, value)) for a, value in zip(averages, moved, strict=True)]
        return pairs

    def counterparts(self, model: nn.Module, edit: Edit) -> list[nn.Module]:
        """The module that an edit is about, in every copy."""
        path = next(name for name, module in model.named_modules() if module is edit.module)
        return [copy.get_submodule(path) for copy in self.modules]


def corrected(
    rule: Transport, copies: Sequence[Tensor], olds: Sequence[Tensor], values: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Copies of parameters (averages, master copies), after these got new values.

    With L the linear map that made the values p' of the old ones p, as far as one did,

        c' = L c + (p' - L p),

    so that a copy that lags behind is scaled, mixed and refitted as the parameter is. Entries that
    the parameter holds rounded stay what rounds to it. Where there is no L, c' = p'.

    Args:
        rule: of the edit.
        copies: of the old parameters, in their shapes; dtypes and devices stay.
        olds: the old parameters, all of the edit where L mixes them.
        values: the new values, in any precision.
    """
    far = [_away(c, p) for c, p in zip(copies, olds, strict=True)]
    mapped = [rule.kept(tuple(map(_precise, tensors))) for tensors in (copies, olds, far)]
    rows = zip(*(t or [None] * len(values) for t in mapped), strict=True)
    return tuple(
        _moved(copy, old.dtype, value.detach().cpu(), *row)
        for copy, old, value, row in zip(copies, olds, values, rows, strict=True)
    )


def _moved(
    copy: Tensor,
    dtype: torch.dtype,
    value: Tensor,
    mapped: Tensor | None,
    mapped_old: Tensor | None,
    far: Tensor | None,
) -> Tensor:
    """One of them; `dtype` is that of the parameter, and `far` is zero where all entries that an
    entry was made of are those of the parameter but for its rounding."""
    stored = value.to(dtype)
    precise = value.to(copy.dtype)
    precise = torch.where(precise.to(dtype) == stored, precise, stored.to(copy.dtype))
    if mapped is None or mapped_old is None or far is None:
        return precise.to(copy.device)
    kept, explained = mapped.to(copy.dtype), mapped_old.to(dtype) == stored
    shifted = (mapped + (_precise(stored) - mapped_old)).to(copy.dtype)
    same = torch.where(explained & (kept.to(dtype) == stored), kept, precise)
    lagging = torch.where(explained, kept, shifted)
    return torch.where(far == 0, same, lagging).to(copy.device)


def _away(copy: Tensor, old: Tensor) -> Tensor:
    """One where a copy differs from the parameter by more than its rounding, else zero."""
    return copy.detach().to(device=old.device, dtype=old.dtype) != old.detach()


def _precise(tensor: Tensor) -> Tensor:
    kind = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().to(device="cpu", dtype=kind)


def _bare(copy: nn.Module) -> nn.Module:
    inner = copy.module if isinstance(copy, torch.optim.swa_utils.AveragedModel) else copy
    return uncompiled(inner)
