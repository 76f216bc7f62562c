"""What the layers are called with: sequences, and masks of the steps that count."""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import InputError


def masked(layer: str, u: Tensor, mask: Tensor | None, width: int) -> Tensor:
    """The input with zeros at the steps that do not count.

    Raises:
        InputError: shapes that do not fit.
    """
    if u.dim() != 3 or u.shape[-1] != width or u.shape[1] == 0:
        raise InputError(
            f"{layer} expects u of shape (batch, length >= 1, {width}), got {tuple(u.shape)}"
        )
    if mask is None:
        return u
    if mask.shape != u.shape[:2]:
        raise InputError(
            f"mask must be (batch, length) = {tuple(u.shape[:2])}, got {tuple(mask.shape)}"
        )
    return torch.where(mask.bool()[..., None], u, 0)
