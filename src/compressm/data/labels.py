"""Class labels as they come from a file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressm.errors import DataError


def check_labels(labels: Sequence[object], classes: int, where: str) -> Tensor:
    """Labels as int64 (n,); `where` names the file and part in the error.

    Raises:
        DataError: one of them is not an integer in 0 ... classes - 1.
    """
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < classes:
            raise DataError(
                f"{where}, row {row}: label {label!r}, expected an integer from 0 to "
                f"{classes - 1}; is it another data set?"
            )
    return torch.tensor(labels, dtype=torch.int64, device="cpu")
