"""Real-valued sequences that are longer than a batch should copy: recordings.

Shapes: n examples, B batch, L sequence length, T samples of all recordings end to end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.data.tensors import padded


class Recordings:
    """Signals of one channel and of different lengths, end to end in `flat` (T,), any type.

    Example i is the `lengths[i]` samples from `starts[i]` on, times `scale[i]`, as float32. A batch
    is trimmed to its longest signal; padding is 0, and False in the mask.
    """

    def __init__(self, flat: Tensor, starts: Tensor, lengths: Tensor, scale: Tensor) -> None:
        self.flat = flat
        self.starts = starts
        self.scale = scale
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        values, mask = padded(self.flat, self.starts[rows], self._lengths[rows])
        return (values.float() * self.scale[rows, None] * mask)[..., None], mask

    def lengths(self) -> Tensor:
        return self._lengths


def root_mean_squares(flat: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Root mean square of every signal, (n,) float64."""
    energy = torch.zeros(len(flat) + 1, dtype=torch.float64, device="cpu")
    energy[1:] = flat.double().square_().cumsum_(0)
    return ((energy[starts + lengths] - energy[starts]) / lengths).sqrt_()
