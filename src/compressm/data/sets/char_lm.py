"""Character language modelling: predict the next character at every step."""

from __future__ import annotations

from compressm.data.config import DataConfig
from compressm.data.corpus import CorpusOptions, corpus_splits, read_corpus
from compressm.data.registry import register
from compressm.data.task import DataSplits
from compressm.data.text import encode_characters


@register("char_lm", options=CorpusOptions)
def char_lm(config: DataConfig, options: CorpusOptions) -> DataSplits:
    """Next-character prediction on Shakespeare, on novels (gutenberg), or on any text file.

    The vocabulary is that of the whole text.
    """
    corpus = read_corpus(config, options, str)
    return corpus_splits(config, options, corpus, *encode_characters(corpus.texts))
