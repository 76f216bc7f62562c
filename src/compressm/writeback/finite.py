"""What a cut would carry over for good must be numbers: the state of optimizers.

Gradients may be infinite: a gradient scaler leaves them where it skips a step, and they end with
the next `zero_grad`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.edits import Edit
from compressm.errors import NonFiniteError
from compressm.storage.bits import tensors_in
from compressm.writeback.ownership import named_optimizers


def require_finite(
    model: nn.Module, edits: Sequence[Edit], optimizers: Sequence[Optimizer], transport: str
) -> None:
    """Refuse to carry NaN and infinity into the reduced coordinates, where they would spread.

    Args:
        model: names of its parameters are those of errors.
        edits: of the parameters that are looked at.
        optimizers: those given, and those inside them.
        transport: "reset" carries no optimizer state, so none is looked at.

    Raises:
        NonFiniteError: names the parameter, and the optimizer with the entry of its state.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    owners = named_optimizers(optimizers) if transport != "reset" else []
    for edit in edits:
        for key, old in zip(edit.names, edit.olds, strict=True):
            name = names.get(id(old), key)
            for optimizer, owner in owners:
                state = owner.state.get(old)
                for entry, value in state.items() if isinstance(state, dict) else ():
                    like = [t for t in tensors_in(value) if t.shape == old.shape]
                    if not all(map(_is_finite, like)):
                        raise NonFiniteError(
                            f"{optimizer}: its {entry} of {name} holds NaN or infinity, so the "
                            "training has diverged; go back to a checkpoint from before"
                        )


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return True
    local = getattr(tensor, "to_local", None)
    return bool(torch.isfinite(tensor.detach() if local is None else local().detach()).all())
