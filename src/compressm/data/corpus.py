"""Texts for language modelling, and which part of them is for what.

Shapes: T units (characters or bytes) in all; a piece is (start, end) in units.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from compressm.data.config import DataConfig
from compressm.data.options import check_at_least
from compressm.data.source import Source, data_file
from compressm.data.splits import limit_test, limit_training, limit_validation, permutation
from compressm.data.task import DataSplits, Task
from compressm.data.text import Piece, read_text, windows
from compressm.errors import ConfigError, DataError

SHAKESPEARE = "tinyshakespeare.txt"
ADDRESS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TEST_SHARE = 0.1

Text = TypeVar("Text", str, bytes)


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Text, window length, and distance between the starts of training windows.

    `source` is "tinyshakespeare", "gutenberg", or the path of any UTF-8 text file. `stride`
    defaults to `length`; validation and test windows never overlap.
    """

    source: str = "tinyshakespeare"
    length: int = 256
    stride: int | None = None

    def __post_init__(self) -> None:
        check_at_least("length", self.length, 1)
        check_at_least("stride", self.stride, 1)


@dataclass(frozen=True, kw_only=True)
class Corpus(Generic[Text]):
    """Texts, and the pieces of their concatenation that belong to each part."""

    texts: list[Text]
    train: Sequence[Piece]
    validation: Sequence[Piece]
    test: Sequence[Piece]


def read_corpus(
    config: DataConfig, options: CorpusOptions, units: Callable[[str], Text]
) -> Corpus[Text]:
    """The corpus that a recipe names, in units: `str` for characters, `str.encode` for bytes.

    A text file: its last tenth is the test part; validation is one stretch of the rest, at a
    place that the seed picks, so that no window of one part overlaps one of another. Gutenberg
    has validation and test books of its own.

    Raises:
        DataError: a file is missing or damaged.
        ConfigError: validation would take all there is.
    """
    if options.source == "gutenberg":
        return _gutenberg(config, units)
    return _file(config, options, units)


def corpus_splits(
    config: DataConfig,
    options: CorpusOptions,
    corpus: Corpus[Text],
    tokens: Tensor,
    vocabulary: tuple[str, ...],
) -> DataSplits:
    """Windows over tokens (T,), one for each unit of the corpus, as a language modelling task.

    Raises:
        ConfigError: a part is too short for a single window.
    """
    length, stride = options.length, options.stride or options.length
    parts = {
        "training": windows(tokens, corpus.train, length, stride),
        "validation": windows(tokens, corpus.validation, length, length),
        "test": windows(tokens, corpus.test, length, length),
    }
    for name, part in parts.items():
        if len(part) == 0:
            raise ConfigError(
                f"data set {config.name!r}: no {name} window of length {length} fits; the text "
                f"has {len(tokens)} tokens, so give a smaller length or more text"
            )
    task = Task(
        kind="language-model",
        input="token",
        input_size=len(vocabulary),
        classes=len(vocabulary),
        length=length,
        padded=False,
    )
    order = permutation(len(parts["training"]), config.seed)
    return DataSplits(
        task=task,
        train=parts["training"].subset(limit_training(order, config).sort().values),
        val=limit_validation(parts["validation"], config),
        test=limit_test(parts["test"], config),
        vocabulary=vocabulary,
    )


def _file(config: DataConfig, options: CorpusOptions, units: Callable[[str], Text]) -> Corpus[Text]:
    path = Path(options.source).expanduser()
    if options.source == "tinyshakespeare":
        path = data_file(config, SHAKESPEARE, f"download {ADDRESS} as {SHAKESPEARE}")
    elif not path.is_file():
        raise DataError(
            f"option 'source' of data set {config.name!r}: there is no file {path}; give "
            "tinyshakespeare, gutenberg, or the path of a text file"
        )
    text = units(read_text(path))
    end = round(len(text) * (1 - TEST_SHARE))
    train, validation = _cut_validation(end, config, options.length)
    return Corpus(texts=[text], train=train, validation=validation, test=[(end, len(text))])


def _gutenberg(config: DataConfig, units: Callable[[str], Text]) -> Corpus[Text]:
    source = Source.find(config, "gutenberg", hub=None)
    rows = source.rows(("train", "validation", "test"), ("text",))
    texts: list[Text] = []
    pieces: dict[str, list[Piece]] = {}
    position = 0
    for split, columns in rows.items():
        for row, text in enumerate(columns["text"]):
            if not isinstance(text, str):
                raise DataError(
                    f"{source.folder}, part {split!r}, row {row}: {text!r}, expected a text"
                )
        books = [units(text) for text in columns["text"]]
        ends = list(itertools.accumulate(map(len, books), initial=position))
        pieces[split] = list(itertools.pairwise(ends))
        texts += books
        position = ends[-1]
    return Corpus(
        texts=texts,
        train=pieces["train"],
        validation=pieces["validation"],
        test=pieces["test"],
    )


def _cut_validation(
    end: int, config: DataConfig, length: int
) -> tuple[Sequence[Piece], Sequence[Piece]]:
    """Training pieces and the validation piece of the units 0 ... end - 1."""
    if isinstance(config.val_size, int):
        # One unit more than the inputs: the label of the last step.
        size = config.val_size * length + 1
    else:
        size = round(config.val_size * end)
    if size >= end:
        raise ConfigError(
            f"val_size: {config.val_size} windows of {length} tokens, but training and "
            f"validation have {end} tokens together; give a smaller count or a share"
        )
    generator = torch.Generator(device="cpu").manual_seed(config.seed)
    start = int(torch.randint(end - size + 1, (), generator=generator, device="cpu"))
    return [(0, start), (start + size, end)], [(start, start + size)]
