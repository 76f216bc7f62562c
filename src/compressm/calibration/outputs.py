"""What a model puts out for a calibration batch, as one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compressm.arguments import shown
from compressm.calibration.calibration import Calibration
from compressm.errors import InputError
from compressm.storage.bits import tensors_in


def output_of(calibration: Calibration, model: nn.Module, batch: Any) -> Tensor:
    """The first tensor of real numbers that the model gives back and that is no scalar.

    Logits of a language model, whether or not a loss comes before them. Where the batch has a mask
    (B, L), or `attention_mask`, that fits the first axes of it: the entries that count, (T, …).
    Gradients flow, if the caller wants them.

    Raises:
        InputError: there is no such tensor.
    """
    found = calibration.call(model, batch)
    real = (t for t in tensors_in(found) if t.is_floating_point() and t.ndim)
    output = next(real, None)
    if output is None:
        raise InputError(
            f"joint_fit: it compares what the model puts out, and {type(model).__name__} gave back "
            f"{shown(found)}; pass forward=lambda model, batch: <the logits>"
        )
    named = batch if isinstance(batch, Mapping) else {}
    mask = named.get("attention_mask", named.get("mask"))
    if not isinstance(mask, Tensor) or mask.shape != output.shape[:2]:
        return output
    return output[mask.to(output.device) > 0]
