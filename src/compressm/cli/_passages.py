"""Pieces of a text file to measure a language model on.

T tokens in all.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from compressm.calibration import Calibration
from compressm.errors import ConfigError, DataError
from compressm.storage.files import reason

# As many tokens as a layer looks at.
_BATCHES, _ROWS, _LENGTH = 8, 4, 256
# As many pieces are evaluated at most.
_PIECES = 32


def read_passages(texts: Path) -> bytes:
    """The bytes of a text file, which may be enough tokens.

    Raises:
        DataError: the file is missing, or too short whatever its tokens are.
    """
    try:
        raw = texts.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"--texts: {texts} cannot be read: {reason(error)}") from error
    if not raw:
        raise DataError(f"--texts: {texts} is empty; give a longer text")
    if len(raw) < _LENGTH:
        raise _too_short(texts, len(raw), "bytes")
    return raw


def tokens_of(texts: Path, raw: bytes, tokenizer: Any, vocabulary: int) -> Tensor:
    """The tokens (T,) of a text by a tokenizer, or its bytes where that is None.

    Raises:
        DataError: it is no text, too short, or its bytes are no tokens of this model.
    """
    highest = max(raw)
    if tokenizer is None and highest >= vocabulary:
        raise DataError(
            f"--texts: the model has no tokenizer, and its {vocabulary} tokens are too few for "
            f"bytes up to {highest}; put the tokenizer's files into its folder"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"--texts: {texts} is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    if "\0" in text:
        raise DataError(f"--texts: {texts} is not a text: there are zero bytes in it")
    if tokenizer is None:
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()
    tokens = torch.tensor(tokenizer(text).input_ids, dtype=torch.int64, device="cpu")
    if len(tokens) < _LENGTH:
        raise _too_short(texts, len(tokens), "tokens")
    if int(tokens.max()) >= vocabulary:
        raise ConfigError(
            f"--texts: the tokenizer knows the token {int(tokens.max())}, and the model only "
            f"{vocabulary}; it is of another model"
        )
    return tokens


def calibration_of(tokens: Tensor) -> Calibration:
    """Batches of pieces at random places."""
    g = torch.Generator(device="cpu").manual_seed(0)
    starts = torch.randint(len(tokens) - _LENGTH + 1, (_BATCHES, _ROWS), generator=g, device="cpu")
    batches = [torch.stack([tokens[i : i + _LENGTH] for i in row.tolist()]) for row in starts]
    return Calibration(batches, forward=lambda model, batch: model(batch, use_cache=False))


def loss_over(model: Any, tokens: Tensor) -> float:
    """Mean loss of a language model in nats per token, over pieces at even distances."""
    count = min(len(tokens) // _LENGTH, _PIECES)
    starts = [i * (len(tokens) - _LENGTH) // max(count - 1, 1) for i in range(count)]
    total = 0.0
    with torch.no_grad():
        for first in range(0, count, _ROWS):
            rows = starts[first : first + _ROWS]
            piece = torch.stack([tokens[i : i + _LENGTH] for i in rows])
            logits = model(piece, use_cache=False).logits[:, :-1].flatten(0, 1).float()
            total += float(cross_entropy(logits, piece[:, 1:].flatten(), reduction="sum"))
    return total / (count * (_LENGTH - 1))


def _too_short(texts: Path, count: int, unit: str) -> DataError:
    return DataError(
        f"--texts: {texts} has {count} {unit}, which is too short; expected a text of at least "
        f"{_LENGTH} tokens"
    )
