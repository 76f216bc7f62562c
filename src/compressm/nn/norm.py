"""Norms over sequences that know about padding.

B batch, L length, H width; inputs and outputs are (B, L, H), masks (B, L), true at real steps.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from compressm.errors import InputError

NormName = Literal["batch", "layer"]


class SequenceBatchNorm(nn.Module):
    """Batch normalisation of each channel over batch and time; padded steps are not counted.

    Without a mask the input is viewed as a channels-last image of size L x 1: PyTorch's CPU kernel
    for that layout takes 0.8 ms where the same numbers as (B*L, H) take 7 ms (B=2, L=1024, H=512).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise; outputs at padded steps are finite and otherwise meaningless."""
        if mask is None or not self.training:
            return self._normalise(x)
        real = mask.bool()
        rows = self._normalise(x[real][None])[0]
        return torch.zeros_like(x, dtype=rows.dtype).masked_scatter(real[..., None], rows)

    def _normalise(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x.transpose(1, 2).unsqueeze(-1))
        return out.squeeze(-1).transpose(1, 2)

    def step(self, x: Tensor) -> Tensor:
        """Normalise one step (B, H) with the running statistics.

        Raises:
            InputError: in training mode, where the statistics of a whole batch would be needed.
        """
        if self.training:
            raise InputError(
                "step() cannot take batch statistics of one time step; call model.eval() first"
            )
        return self._normalise(x[:, None])[:, 0]


class SequenceLayerNorm(nn.Module):
    """Layer normalisation over the channels of each step, so padding has no influence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise each step by itself."""
        out: Tensor = self.norm(x)
        return out

    def step(self, x: Tensor) -> Tensor:
        """Normalise one step, (B, H)."""
        return self.forward(x)


def make_norm(name: NormName, width: int) -> SequenceBatchNorm | SequenceLayerNorm:
    """The norm called `name`.

    Raises:
        InputError: there is none of that name.
    """
    if name == "batch":
        return SequenceBatchNorm(width)
    if name == "layer":
        return SequenceLayerNorm(width)
    raise InputError(f"norm: expected 'batch' or 'layer', got {name!r}")
