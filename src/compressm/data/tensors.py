"""Data sets that live in tensors, so that a batch is one indexing operation.

Shapes: n examples, B batch, L sequence length, C channels, T tokens in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from compressm.errors import InputError


class Field(Protocol):
    """One entry of a batch for all examples of a data set."""

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values of the examples `rows` (B,), and a mask (B, L), True where real, if padded."""
        ...

    def lengths(self) -> Tensor | None:
        """(n,) steps of every example when they differ, else None."""
        ...


class Values:
    """Labels and the like: row i of a tensor (n, ...)."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, rows: Tensor) -> tuple[Tensor, None]:
        return self.values[rows], None

    def lengths(self) -> None:
        return None


class Pixels:
    """Images as sequences in row order, (n, L, C); stored compactly, normalised per batch.

    A batch is `(values / peak - mean) / std` in float32, mean and std per channel.
    """

    def __init__(
        self, values: Tensor, *, peak: float, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.values = values
        self._scale = 1.0 / (peak * torch.tensor(std, device="cpu"))
        self._shift = torch.tensor(mean, device="cpu") / torch.tensor(std, device="cpu")

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, rows: Tensor) -> tuple[Tensor, None]:
        return self.values[rows].float().mul_(self._scale).sub_(self._shift), None

    def lengths(self) -> None:
        return None


class Ragged:
    """Token sequences of different lengths, end to end in `flat` (T,).

    Example i is the `lengths[i]` tokens from `starts[i]` on. A batch is trimmed to its longest
    sequence; padding is token 0 and False in the mask.
    """

    def __init__(self, flat: Tensor, starts: Tensor, lengths: Tensor) -> None:
        self.flat = flat
        self.starts = starts
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        values, mask = padded(self.flat, self.starts[rows], self._lengths[rows])
        return values.long() * mask, mask

    def lengths(self) -> Tensor:
        return self._lengths


def padded(flat: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Stretches of `flat` (T,) side by side, (B, L), and the mask of what belongs to them."""
    step = torch.arange(int(lengths.max()), device="cpu")
    mask = step < lengths[:, None]
    # Positions behind the end of a stretch are read from its start: any that is there.
    return flat[torch.where(mask, starts[:, None] + step, starts[:, None])], mask


class Windows:
    """Windows of `length` tokens of a text: example i starts at `starts[i] + shift`."""

    def __init__(self, flat: Tensor, starts: Tensor, length: int, *, shift: int = 0) -> None:
        self.flat = flat
        self.starts = starts
        self._steps = torch.arange(shift, shift + length, device="cpu")

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, rows: Tensor) -> tuple[Tensor, None]:
        return self.flat[self.starts[rows][:, None] + self._steps].long(), None

    def lengths(self) -> None:
        return None


class Picked:
    """Example i is example `rows[i]` of another field, so one image can be in many pairs."""

    def __init__(self, field: Field, rows: Tensor) -> None:
        self.field = field
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.field.gather(self.rows[rows])

    def lengths(self) -> Tensor | None:
        lengths = self.field.lengths()
        return None if lengths is None else lengths[self.rows]


class SequenceDataset(Dataset[dict[str, Tensor]]):
    """Named fields over the same examples, or over the examples `index` of them.

    `dataset[rows]` with a list or tensor of B rows is a whole batch; `dataset[i]` with an int
    is one example. A padded field "inputs" comes with "mask", "inputs_a" with "mask_a".
    """

    def __init__(self, fields: Mapping[str, Field], index: Tensor | None = None) -> None:
        sizes = {name: len(field) for name, field in fields.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"fields of one data set need one size, got {sizes}")
        self.fields = dict(fields)
        every = torch.arange(next(iter(sizes.values())), device="cpu")
        self.index = every if index is None else index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: int | Sequence[int] | Tensor) -> dict[str, Tensor]:
        if isinstance(rows, int):
            one = self[torch.tensor([rows], device="cpu")]
            return {name: value[0] for name, value in one.items()}
        chosen = self.index[torch.as_tensor(rows, device="cpu")]
        batch: dict[str, Tensor] = {}
        for name, field in self.fields.items():
            batch[name], mask = field.gather(chosen)
            if mask is not None:
                batch[name.replace("inputs", "mask", 1)] = mask
        return batch

    def lengths(self) -> Tensor | None:
        """(n,) steps of the longest field of every example, None when all are equally long."""
        longest: Tensor | None = None
        for field in self.fields.values():
            lengths = field.lengths()
            if lengths is not None:
                longest = lengths if longest is None else torch.maximum(longest, lengths)
        return None if longest is None else longest[self.index]

    def subset(self, rows: Tensor) -> SequenceDataset:
        """The examples `rows` of this data set; the tensors are shared, not copied."""
        return SequenceDataset(self.fields, self.index[rows])
