"""Text as characters, and windows over parts of it.

Shapes: T characters in all, n windows of L steps; a piece is (start, end) in characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compressm.data.tensors import SequenceDataset, Windows
from compressm.errors import DataError

Piece = tuple[int, int]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        DataError: missing, unreadable, not UTF-8, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not text:
        raise DataError(f"{path} is empty; copy it again")
    return text


def encode_characters(texts: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """All texts end to end as tokens (T,), numbered by code point, and the vocabulary."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    present = np.flatnonzero(np.bincount(codes))
    dtype = np.int16 if len(present) <= np.iinfo(np.int16).max else np.int32
    number = np.zeros(present[-1] + 1, dtype=dtype)
    number[present] = np.arange(len(present))
    return torch.from_numpy(number[codes]), tuple(chr(code) for code in present.tolist())


def windows(tokens: Tensor, pieces: Sequence[Piece], length: int, stride: int) -> SequenceDataset:
    """Windows of `length` inputs whose labels are the next characters; none leaves its piece."""
    starts = [
        torch.arange(begin, end - length, stride, device="cpu")
        for begin, end in pieces
        if end - begin > length
    ]
    where = torch.cat(starts) if starts else torch.empty(0, dtype=torch.int64, device="cpu")
    return SequenceDataset(
        {
            "inputs": Windows(tokens, where, length),
            "labels": Windows(tokens, where, length, shift=1),
        }
    )
