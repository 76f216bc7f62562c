"""Byte language modelling: predict the next byte at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from compressm.data.config import DataConfig
from compressm.data.corpus import CorpusOptions, corpus_splits, read_corpus
from compressm.data.registry import register
from compressm.data.task import DataSplits

# Byte 65 is "A", also where it is part of a longer UTF-8 sequence.
VOCABULARY = tuple(chr(byte) for byte in range(256))


@dataclass(frozen=True, kw_only=True)
class ByteLmOptions(CorpusOptions):
    """As for char_lm, but novels are the default."""

    source: str = "gutenberg"


@register("byte_lm", options=ByteLmOptions)
def byte_lm(config: DataConfig, options: ByteLmOptions) -> DataSplits:
    """Next-byte prediction on novels (gutenberg, split by book), Shakespeare, or any text file.

    The vocabulary is all 256 bytes, so a model fits any text; the loss is in nats per byte.
    """
    corpus = read_corpus(config, options, str.encode)
    tokens = torch.from_numpy(np.frombuffer(b"".join(corpus.texts), dtype=np.uint8).copy())
    return corpus_splits(config, options, corpus, tokens, VOCABULARY)
