"""Real-valued sequences: recordings, and windows of a time series.

Shapes: n examples, B batch, L sequence length, T samples in all, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.data.tensors import SequenceDataset, padded


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


class Stretch:
    """Rows `starts[i] + begin … starts[i] + end - 1` of a series (T, C), as example i.

    With `level`, less the row `starts[i] + level`. Flat stretches are (B, (end - begin) C), time
    after time.
    """

    def __init__(
        self,
        series: Tensor,
        starts: Tensor,
        begin: int,
        end: int,
        *,
        level: int | None = None,
        flat: bool = False,
    ) -> None:
        self.series = series
        self.starts = starts
        self.level = level
        self.flat = flat
        self._steps = torch.arange(begin, end, device="cpu")

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, rows: Tensor) -> tuple[Tensor, None]:
        start = self.starts[rows]
        values = self.series[start[:, None] + self._steps]
        if self.level is not None:
            values = values - self.series[start + self.level][:, None]
        return (values.flatten(1) if self.flat else values), None

    def lengths(self) -> None:
        return None


def forecasts(
    series: Tensor,
    first: int,
    end: int,
    *,
    window: int,
    horizon: int,
    centre: bool,
    apart: bool = False,
) -> SequenceDataset:
    """Every forecast of rows `first … end - 1` of a series (T, C): `window` rows, then `horizon`.

    The first window may begin before `first`, but no value that is predicted does. `centre` takes
    the last row of a window from the window and from what is predicted; the errors of a prediction
    stay as they are. `apart` makes every channel an example of its own, one channel after another.
    """
    starts = torch.arange(max(first - window, 0), end - window - horizon + 1, device="cpu")
    if apart:
        rows, channels = series.shape
        starts = (rows * torch.arange(channels, device="cpu")[:, None] + starts).flatten()
        series = series.T.reshape(-1, 1)
    level = window - 1 if centre else None
    return SequenceDataset(
        {
            "inputs": Stretch(series, starts, 0, window, level=level),
            "labels": Stretch(series, starts, window, window + horizon, level=level, flat=True),
        }
    )
