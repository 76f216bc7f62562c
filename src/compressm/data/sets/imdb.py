"""IMDB film reviews as bytes: long token sequences of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressm.data.cache import cached
from compressm.data.config import DataConfig
from compressm.data.labels import check_labels
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.source import Source
from compressm.data.splits import assemble
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import Ragged, SequenceDataset, Values
from compressm.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ImdbOptions:
    """Bytes that are kept of the beginning of each review (4,096: Long Range Arena)."""

    max_length: int = 4096

    def __post_init__(self) -> None:
        check_at_least("max_length", self.max_length, 1)


def encode(texts: Sequence[str], where: str) -> tuple[Tensor, Tensor]:
    """UTF-8 bytes of all texts end to end (T,) uint8, and the length of each (n,) int64.

    Raises:
        DataError: a cell is not a text, or is empty.
    """
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise DataError(f"{where}, row {row}: {text!r}, expected a text that is not empty")
    encoded = [text.encode() for text in texts]
    flat = torch.from_numpy(np.frombuffer(b"".join(encoded), dtype=np.uint8).copy())
    return flat, torch.tensor([len(item) for item in encoded], device="cpu")


@register("imdb", options=ImdbOptions)
def imdb(config: DataConfig, options: ImdbOptions) -> DataSplits:
    """Film reviews as bytes, 25,000 + 25,000, positive or negative (Maas et al. 2011).

    123 test texts are also in the training part, as in the original.
    """
    source = Source.find(config, "imdb", hub="stanfordnlp/imdb")

    def build() -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for split, columns in source.rows(("train", "test"), ("text", "label")).items():
            where = f"{source.folder or source.hub}, part {split!r}"
            tensors[split], tensors[f"{split}_lengths"] = encode(columns["text"], where)
            tensors[f"{split}_labels"] = check_labels(columns["label"], 2, where)
        return tensors

    tensors = cached("imdb", {"source": source.identity(), "layout": 1}, build)

    def part(split: str) -> SequenceDataset:
        full = tensors[f"{split}_lengths"]
        field = Ragged(tensors[split], full.cumsum(0) - full, full.clamp(max=options.max_length))
        return SequenceDataset({"inputs": field, "labels": Values(tensors[f"{split}_labels"])})

    pool, test = part("train"), part("test")
    longest = max(int(tensors[f"{split}_lengths"].max()) for split in ("train", "test"))
    task = Task(
        kind="classification",
        input="token",
        input_size=256,
        classes=2,
        length=min(longest, options.max_length),
        padded=True,
    )
    return assemble(config, task, pool=pool, test=test)
